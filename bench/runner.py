"""Run scenarios: the entries of each take their rounds in turn, so that a change of the machine's load meets all."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.contenders import Unavailable
from bench.report.results import EntryResult, ScenarioResult
from bench.scenario import Entry, Measures, Place, Scenario


@dataclass(frozen=True, slots=True)
class Plan:
    """How to run the scenarios."""

    rounds: int
    scale: float
    broker_url: Callable[[], str]
    say: Callable[[str], None]
    profiles: Path = Path(os.devnull)
    profile_kind: str = ""


@dataclass(slots=True)
class _Progress:
    """What is known of an entry so far."""

    entry: Entry
    version: str = ""
    failure: str = ""
    is_available: bool = True
    rounds: list[Measures] = field(default_factory=list)

    def result(self) -> EntryResult:
        """Return what is known at the end."""
        return EntryResult(self.entry.name, self.version, tuple(self.rounds), self.failure, self.is_available)


def run(scenario: Scenario, plan: Plan) -> ScenarioResult:
    """Run one scenario. An entry that fails takes no more rounds, and the result says why."""
    plan.say(f"\n{scenario.name}: {scenario.title}")
    begun = time.monotonic()
    entries = [_prepared(entry, plan) for entry in scenario.entries]
    for number in range(1, (1 if scenario.is_exact else plan.rounds) + 1):
        for progress in entries:
            if not progress.failure:
                _take_round(scenario, progress, number, plan)
    plan.say(f"  took {time.monotonic() - begun:.0f} s")
    return ScenarioResult(scenario.name, scenario.title, scenario.compared, tuple(each.result() for each in entries))


def chosen(scenarios: Sequence[Scenario], names: Sequence[str]) -> list[Scenario]:
    """Return the scenarios whose names start with one of `names`; all without names. ValueError for an unknown one."""
    for name in names:
        if not any(scenario.name.startswith(name) for scenario in scenarios):
            raise ValueError(f"there is no scenario '{name}'; there are {', '.join(each.name for each in scenarios)}")
    return [each for each in scenarios if not names or any(each.name.startswith(name) for name in names)]


def _prepared(entry: Entry, plan: Plan) -> _Progress:
    progress = _Progress(entry)
    try:
        progress.version = entry.prepare()
    except Unavailable as error:
        progress.failure, progress.is_available = str(error), False
        plan.say(f"  {entry.name:<28} {progress.result().how_it_ended}: {error}")
    return progress


def _take_round(scenario: Scenario, progress: _Progress, number: int, plan: Plan) -> None:
    name = progress.entry.name
    if plan.profile_kind:
        plan.profiles.mkdir(parents=True, exist_ok=True)
    profile = plan.profiles / f"{scenario.name}-{re.sub('[^a-z0-9]+', '-', name.lower())}-{number}.txt"
    with tempfile.TemporaryDirectory(prefix="mxworker-bench-", ignore_cleanup_errors=True) as folder:
        place = Place(Path(folder), plan.scale, plan.broker_url, profile, plan.profile_kind)
        try:
            taken = progress.entry.measure(place)
        except Exception as error:  # whatever it is, the other entries still run, and the report shows it
            progress.failure = str(error) or repr(error)
            progress.is_available = not isinstance(error, Unavailable)
            plan.say(f"  round {number}  {name:<28} {progress.result().how_it_ended}: {error}")
            return
    progress.rounds.append(taken)
    figures = "  ".join(f"{measure} {value:,.4g}" for measure, value in taken.items())
    plan.say(f"  round {number}  {name:<28} {figures}")
