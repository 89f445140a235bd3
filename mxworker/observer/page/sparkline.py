"""Small curves of the last quarter of an hour, as SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mxworker.observer.overview.history import POINTS
from mxworker.observer.page.html import Html, element

HEIGHT = 24


def sparkline(values: Sequence[float | None], label: str) -> Html:
    """Return the curve of these values, the latest at the right edge. The time before them is a faint line.

    A value that is None is drawn as 0. `label` says in words what the curve shows.
    """
    known = [value or 0.0 for value in values][-POINTS:]
    before = element("path", d=f"M0 {HEIGHT}h{POINTS - max(1, len(known))}", class_="unknown")
    return element(
        "svg",
        before if len(known) < POINTS else "",
        element("path", d=path_of(known)),
        class_="spark" if any(known) else "spark flat",
        viewBox=f"0 -1 {POINTS - 1} {HEIGHT + 2}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def path_of(values: Sequence[float]) -> str:
    """Return the path of a curve: relative steps, and one step for a run of equal values, so that it is short."""
    if not values:
        return ""
    top = max(values) or 1.0
    heights = [HEIGHT - round(max(0.0, value) / top * HEIGHT) for value in values]
    path = [f"M{POINTS - len(heights)} {heights[0]}"]
    run = 0
    for height, following in pairwise(heights):
        if following == height:
            run += 1
            continue
        if run:
            path.append(f"h{run}")
        path.append(f"l1 {following - height}".replace(" -", "-"))
        run = 0
    return "".join(path) + (f"h{run}" if run or len(heights) == 1 else "")
