"""A file of settings to start from, made from the settings tree. Pure."""

from __future__ import annotations

import textwrap

from mxworker.cli.config.options import LEAVES
from mxworker.config.kinds import Factor, Switch, Texts, Whole
from mxworker.config.leaf import Leaf

_WIDTH = 100


def defaults() -> str:
    """Return a TOML file with every setting and its default, commented out, so that the file changes nothing."""
    lines = list(
        _comment("Settings of mxworker. Every line with a setting has its default; take the # away to change it.")
    )
    table = ""
    section = ""
    for leaf in sorted(LEAVES, key=lambda leaf: "." in leaf.key):  # a table holds all keys that follow it
        head, _, key = leaf.key.rpartition(".")
        if leaf.section != section and not head:
            lines += ["", "", f"# ---- {leaf.section}"]
        if head != table:
            lines += ["", "", f"# ---- {leaf.section}", "", f"[{head}]"]
        table, section = head, leaf.section
        allowed = f"{leaf.kind.allowed[0].upper()}{leaf.kind.allowed[1:]}."
        lines += ["", *_comment(f"{leaf.sentence} {allowed}"), f"#{key} = {_entry(leaf)}"]
    lines += ["", "", "# ---- One queue", "", *_comment("The handlers of one queue may have values of their own.")]
    lines += ['#[queues."orders"]', "#concurrency = 8", '#handler-timeout = "2m"']
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _entry(leaf: Leaf) -> str:
    """Return the default as TOML, or what stands for a value, with the words for leaving it out."""
    kind, text = leaf.kind, leaf.text_of(leaf.default)
    if text is None:
        stands = f'["{kind.metavar}"]' if isinstance(kind, Texts) else f'"{kind.metavar}"'
        return f"{stands}  # left out: {leaf.unset}" if leaf.unset else stands
    return text if isinstance(kind, Factor | Switch | Whole) else f'"{text}"'
