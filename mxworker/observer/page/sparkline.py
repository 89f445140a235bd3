"""Small curves of the last quarter of an hour, as SVG. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from mxworker.observer.overview.history import POINTS
from mxworker.observer.page.html import Html, element

HEIGHT = 24


def sparkline(values: Sequence[float | None], label: str) -> Html:
    """Return the curve of these values, the latest at the right edge. The time before them is a faint line.

    There is a gap where a value is None. `label` says in words what the curve shows.
    """
    shown = values[-POINTS:]
    before = element("path", d=f"M0 {HEIGHT}h{POINTS - max(1, len(shown))}", class_="unknown")
    return element(
        "svg",
        before if len(shown) < POINTS else "",
        element("path", d=path_of(shown)),
        class_="spark" if any(shown) else "spark flat",
        viewBox=f"0 -1 {POINTS - 1} {HEIGHT + 2}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )


def path_of(values: Sequence[float | None]) -> str:
    """Return the path of a curve: relative steps, and one step for a run of equal values, so that it is short."""
    top = max((value for value in values if value is not None), default=0.0) or 1.0
    heights = [None if value is None else HEIGHT - round(max(0.0, value) / top * HEIGHT) for value in values]
    path: list[str] = []
    at = POINTS - len(heights)
    for is_known, run in groupby(heights, lambda height: height is not None):
        piece = list(run)
        if is_known:
            path += [f"M{at} {piece[0]}", *_steps([height or 0 for height in piece])]
        at += len(piece)
    return "".join(path)


def _steps(heights: Sequence[int]) -> Iterator[str]:
    """Yield the steps between these heights."""
    run = 0
    for height, following in pairwise(heights):
        if following == height:
            run += 1
            continue
        if run:
            yield f"h{run}"
        yield f"l1 {following - height}".replace(" -", "-")
        run = 0
    if run or len(heights) == 1:
        yield f"h{run}"
