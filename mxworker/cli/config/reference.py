"""The documents that are made from the settings tree: the reference page, and a file of settings to start from. Pure.

`python -m mxworker.cli.config.reference > docs/settings.md` writes the page.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mxworker.cli.config.options import LEAVES
from mxworker.config.kinds import Factor, Switch, Texts, Whole
from mxworker.config.leaf import Leaf

_WIDTH = 100
_PAGE = """\
# Settings

<!-- Made from the code by: python -m mxworker.cli.config.reference > docs/settings.md -->

Every setting has one name, and can be given in four ways. This is `publisher.max-in-flight`:

| where | how |
|---|---|
| a flag of `run` and `dev` | `--publisher-max-in-flight 500` |
| an environment variable | `MXWORKER_PUBLISHER_MAX_IN_FLIGHT=500` |
| a configuration file | `max-in-flight = 500` in the table `[publisher]` |
| code | `Handlers(publisher=PublisherSettings(max_in_flight=500))`; see below |

A flag counts more than a variable, a variable more than the file, the file more than a profile, and a profile more
than the code. What nobody sets has the default. `mxworker config show` prints each value and where it comes from.

Code can set what concerns handlers, as options of `consume` and `consume_batch`, and the publisher and the pool of a
worker: `Handlers(publisher=PublisherSettings(...), pool=PoolSettings(...))`. Everything else concerns the start of
the service, before the code is loaded. `Publisher.connect` takes `PublisherSettings` outside a worker.

## The configuration file

`mxworker.toml` in the current directory is read, or the table `[tool.mxworker]` in `pyproject.toml`; `--config FILE`
names another file. The start lines name the file. It is read once, so a reload does not read it again. `mxworker
config defaults > mxworker.toml` writes one with every setting, all of them commented out.

```toml
workers = 4
drain-timeout = "1m"
broker-url-file = "broker-url"      # relative to this file

[publisher]
compression = "gzip"

[queues."orders"]                   # for the handlers of one queue
concurrency = 8
handler-timeout = "2m"
```

A key that does not exist is refused, with the nearest one; so is a value outside its range. The file is refused when
other users could change it, because it chooses what runs; `--insecure-app-dir`, as a flag or variable, accepts that.
When it holds a password in `broker-url`, it is refused when everybody may read it.

A table of a queue has the settings of the section *Handlers*. They replace those of the file for all queues; flags
and variables replace both. A queue that the application does not consume is an error. In a file with such tables,
`exclude-queues` chooses among the queues, and not `queues`, which would be a second value of that name.

`--profile NAME` starts from settings that mxworker ships, which are the files in `conf/`: `development`,
`production`, or `throughput`, which has the values of the performance guide.
"""


def page() -> str:
    """Return the reference page."""
    sections = dict.fromkeys(leaf.section for leaf in LEAVES)
    parts = [_PAGE, *("\n".join(_section(section)) for section in sections)]
    return "\n".join(parts)


def _section(section: str) -> Iterator[str]:
    yield f"## {section}\n"
    yield "| key | default | allowed | what it does |"
    yield "|---|---|---|---|"
    for leaf in LEAVES:
        if leaf.section == section:
            short = f" (`{leaf.short}`)" if leaf.short else ""
            yield f"| `{leaf.key}`{short} | {_default(leaf)} | {leaf.kind.allowed} | {leaf.sentence} |"
    yield ""


def _default(leaf: Leaf) -> str:
    text = leaf.text_of(leaf.default)
    return (leaf.unset or "none") if text is None else f"`{text}`"


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


if __name__ == "__main__":
    print(page(), end="")
