"""The icons of the page. Each tone has a shape of its own, so that nothing depends on colours. Pure."""

from __future__ import annotations

from mxworker.observer.page.html import Html, element

_PATHS = {
    "good": "M12 3a9 9 0 1 0 .01 0M8 12.5l2.7 2.7L16 9.5",
    "warn": "M12 4 2.8 20h18.4zM12 10v4.5M12 17.2v.1",
    "bad": "M8.3 3h7.4L21 8.3v7.4L15.7 21H8.3L3 15.7V8.3zM9 9l6 6M15 9l-6 6",
    "calm": "M12 3a9 9 0 1 0 .01 0M10 9v6M14 9v6",
}


def icon(tone: str, label: str | None = None) -> Html:
    """Return the icon of a tone: good, warn, bad or calm. Without `label` it is decoration."""
    role = {"role": "img", "aria_label": label} if label is not None else {"aria_hidden": "true"}
    path = element("path", d=_PATHS[tone])
    return element("svg", path, class_=f"icon {tone}", viewBox="0 0 24 24", **role)


def svg_of(tone: str, colour: str) -> str:
    """Return an icon as a document, for the tab of the browser."""
    stroke = f'fill="none" stroke="{colour}" stroke-width="2.6" stroke-linecap="round" stroke-linejoin="round"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" {stroke}><path d="{_PATHS[tone]}"/></svg>'
