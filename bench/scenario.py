"""What is measured: a scenario has entries, which take their rounds in turn. The runner knows no more than this."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Measures = Mapping[str, float]
"""What one round of an entry measured, by the names of `MEASURES`."""


class Failed(Exception):
    """A round did not end well; the text says how. The report shows it, and the entry takes no more rounds."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What a number of the results means."""

    column: str
    """The title of a column of a table."""
    title: str
    unit: str
    more_is_better: bool
    digits: int = 0


MEASURES: Mapping[str, Measure] = {
    "rate": Measure("msg/s", "messages per second", "msg/s", True),
    "cpu_us": Measure("CPU, us/msg", "CPU time per message", "us", False, 1),
    "p50_ms": Measure("p50, ms", "latency of the confirm, median", "ms", False, 2),
    "p95_ms": Measure("p95, ms", "latency of the confirm, 95th percentile", "ms", False, 2),
    "p99_ms": Measure("p99, ms", "latency of the confirm, 99th percentile", "ms", False, 2),
    "cpu_share": Measure("CPU, % of a core", "CPU used, of one core", "%", False, 2),
    "instructions": Measure("instructions/msg", "instructions per message", "", False),
    "grown_mb": Measure("grown, MB", "memory grown (PSS)", "MB", False, 1),
    "pss_mb": Measure("PSS, MB", "memory (PSS)", "MB", False, 1),
    "ready_s": Measure("ready, s", "time from start to ready", "s", False, 2),
    "took_ms": Measure("time, ms", "time", "ms", False, 1),
}


@dataclass(frozen=True, slots=True)
class Place:
    """What a round is given."""

    folder: Path
    """An empty folder, for this round alone."""
    scale: float
    """Every number of messages is multiplied by it."""
    broker_url: Callable[[], str]
    """Returns the URL of a RabbitMQ, and starts one when it is first called. Raises Unavailable."""
    profile: Path = Path(os.devnull)
    """Where a program in Python writes its profile of this round, if one is wanted."""
    profile_kind: str = ""
    """What is profiled: "cpu", "memory" or nothing."""

    def scaled(self, messages: int) -> int:
        """Return the number of messages for this run; at least one."""
        return max(1, round(messages * self.scale))


class Entry(Protocol):
    """One way of doing what the scenario measures."""

    @property
    def name(self) -> str:
        """What the report calls it."""
        ...

    def prepare(self) -> str:
        """Make ready for the rounds, and return the versions at work. Raises Unavailable."""
        ...

    def measure(self, place: Place) -> Measures:
        """Take one round. Raises Failed."""
        ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing to measure. The first entry is the one to which the others are compared."""

    name: str
    """As in `make bench NAME=...`, which also takes what a name starts with."""
    title: str
    entries: tuple[Entry, ...]
    compared: str = "rate"
    """The measure by which entries are compared and drawn."""
    is_exact: bool = False
    """Whether one round is enough, because every round gives the same number."""
