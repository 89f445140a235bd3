"""Whether the results reach the goals of `bench/goals.toml`."""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.report.results import Run, ScenarioResult
from bench.scenario import MEASURES

GOALS = Path(__file__).parents[1] / "goals.toml"


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a measure of an entry: absolute, or as a ratio to each of the entries `against`."""

    text: str
    scenario: str
    entry: str
    measure: str
    against: tuple[str, ...] = ()
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None) or self.measure not in MEASURES:
            raise ValueError(f"a goal needs a known measure, and either at_least or at_most: {self}")


class State(enum.StrEnum):
    """What became of a goal."""

    HELD = "held"
    MISSED = "missed"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a goal, and by how much: the value, and the part of the bound that is missing."""

    goal: Goal
    state: State
    value: float | None = None
    against: str = ""
    """The entry by which the value is a ratio: the one that is hardest to reach."""

    @property
    def distance(self) -> float:
        """By how much the value misses the goal, as a part of the goal; 0 when it is held or not measured."""
        bound = self.goal.at_least if self.goal.at_least is not None else self.goal.at_most
        if self.state is not State.MISSED or self.value is None or not bound:
            return 0.0
        return abs(self.value - bound) / bound


def load(path: Path = GOALS) -> tuple[Goal, ...]:
    """Read the goals. Raises TypeError or ValueError for one that is wrong."""
    found = tomllib.loads(path.read_text(encoding="utf-8"))["goal"]
    return tuple(Goal(**{**goal, "against": tuple(goal.get("against", ()))}) for goal in found)


def verdicts(goals: Sequence[Goal], run: Run) -> list[Verdict]:
    """Return what became of each goal in a run."""
    return [_verdict(goal, run.scenario(goal.scenario)) for goal in goals]


def _verdict(goal: Goal, scenario: ScenarioResult | None) -> Verdict:
    values = _values(goal, scenario) if scenario is not None else {}
    if not values:
        return Verdict(goal, State.NOT_MEASURED)
    hardest = min if goal.at_least is not None else max
    against = hardest(values, key=lambda name: values[name])
    value = values[against]
    is_held = value >= goal.at_least if goal.at_least is not None else value <= (goal.at_most or 0.0)
    return Verdict(goal, State.HELD if is_held else State.MISSED, value, against)


def _values(goal: Goal, scenario: ScenarioResult) -> dict[str, float]:
    """Return the value or, by the name of each entry that was measured beside it, the ratios."""
    own = _median(goal, scenario, goal.entry)
    if own is None:
        return {}
    if not goal.against:
        return {"": own}
    others = {name: _median(goal, scenario, name) for name in goal.against}
    return {name: own / other for name, other in others.items() if other}


def _median(goal: Goal, scenario: ScenarioResult, name: str) -> float | None:
    entry = scenario.entry(name)
    spread = entry.spread(goal.measure) if entry is not None else None
    return spread.median if spread is not None else None
