"""The results of a run, and their file: `bench/results/latest.json` is the latest complete one."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.scenario import Measures


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some rounds, and the smallest and largest of them."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class EntryResult:
    """What an entry measured. With a failure there are the rounds before it, or none."""

    name: str
    version: str
    rounds: tuple[Measures, ...]
    failure: str = ""
    is_available: bool = True
    """Whether it could be run on this machine at all; `failure` says why not."""

    @property
    def how_it_ended(self) -> str:
        """What to say of an entry with a failure."""
        return "failed" if self.is_available else "not available"

    def spread(self, measure: str) -> Spread | None:
        """Return the spread of a measure over the rounds; None when no round has it."""
        found = [taken[measure] for taken in self.rounds if measure in taken]
        return Spread(statistics.median(found), min(found), max(found)) if found else None


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """What was measured in a scenario. The first entry is the one to which the others are compared."""

    name: str
    title: str
    compared: str
    entries: tuple[EntryResult, ...]

    def entry(self, name: str) -> EntryResult | None:
        """Return the entry of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)


@dataclass(frozen=True, slots=True)
class Run:
    """All that was measured in one run, and where."""

    facts: Mapping[str, Any]
    """The machine, the versions, the commit and the time."""
    scenarios: tuple[ScenarioResult, ...]

    def scenario(self, name: str) -> ScenarioResult | None:
        """Return the scenario of that name."""
        return next((scenario for scenario in self.scenarios if scenario.name == name), None)


def write(run: Run, path: Path) -> None:
    """Write a run as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(run), indent=1, sort_keys=True) + "\n", encoding="utf-8")


def read(path: Path) -> Run:
    """Read what `write` has written."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Run(found["facts"], tuple(map(_scenario, found["scenarios"])))


def _scenario(found: Mapping[str, Any]) -> ScenarioResult:
    entries = (
        EntryResult(entry["name"], entry["version"], tuple(entry["rounds"]), entry["failure"], entry["is_available"])
        for entry in found["entries"]
    )
    return ScenarioResult(found["name"], found["title"], found["compared"], tuple(entries))
