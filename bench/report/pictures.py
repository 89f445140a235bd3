"""Results as pictures, one SVG for each scenario with several entries. Needs matplotlib, of the group `bench`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bench.report.results import Run, ScenarioResult
from bench.scenario import MEASURES

_OURS, _OTHERS, _RANGE = "#2a6f97", "#a9b4bd", "#333333"
_BAR_INCHES, _FRAME_INCHES, _WIDTH_INCHES = 0.34, 1.0, 7.0


def can_draw() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(run: Run, folder: Path) -> dict[str, str]:
    """Draw what can be compared, and return the names of the files by scenario."""
    drawn = {}
    for scenario in run.scenarios:
        if sum(entry.spread(scenario.compared) is not None for entry in scenario.entries) > 1:
            drawn[scenario.name] = f"{scenario.name}.svg"
            draw_bars(scenario, folder / drawn[scenario.name])
    return drawn


def draw_bars(scenario: ScenarioResult, path: Path) -> None:
    """Draw a bar for each entry: its median, with a line from the lowest to the highest round."""
    import matplotlib as mpl  # here, because a run without pictures needs no matplotlib

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = scenario.name  # the same results make the same file
    from matplotlib import pyplot

    measure = MEASURES[scenario.compared]
    measured = [(entry.name, spread) for entry in scenario.entries if (spread := entry.spread(scenario.compared))]
    measured.sort(key=lambda each: each[1].median, reverse=not measure.more_is_better)
    figure, axes = pyplot.subplots(figsize=(_WIDTH_INCHES, _FRAME_INCHES + _BAR_INCHES * len(measured)))
    medians = [spread.median for _, spread in measured]
    below = [spread.median - spread.lowest for _, spread in measured]
    above = [spread.highest - spread.median for _, spread in measured]
    colours = [_OURS if name.startswith("mxworker") else _OTHERS for name, _ in measured]
    axes.barh([name for name, _ in measured], medians, color=colours, xerr=(below, above), ecolor=_RANGE)
    axes.set_title(scenario.title, loc="left", fontsize="medium")
    axes.set_xlabel(f"{measure.title} ({measure.unit}); {'more' if measure.more_is_better else 'less'} is better")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
