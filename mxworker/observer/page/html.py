"""HTML from text that may be hostile: whatever is not made here is escaped, hidden characters too. Pure."""

from __future__ import annotations

from html import escape

from mxworker.system.printable import printable

_VOID = frozenset({"br", "link", "meta"})


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | bool | None) -> Html:
    """Return an element. Children that are no `Html` are escaped, and so are the values of all attributes.

    An attribute is called as in HTML, with `_` for `-` and `class_` for class. None and False leave it out; True writes
    it without a value.
    """
    shown = "".join(_attribute(name, value) for name, value in attributes.items())
    if tag in _VOID:
        return Html(f"<{tag}{shown}>")
    return Html(f"<{tag}{shown}>{join(*children)}</{tag}>")


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    named = name.rstrip("_").replace("_", "-")
    return f" {named}" if value is True else f' {named}="{escape(printable(value))}"'


def join(*children: str) -> Html:
    """Return children one after the other; those that are no `Html` are escaped."""
    return Html(
        "".join(child if isinstance(child, Html) else escape(printable(child), quote=False) for child in children)
    )
