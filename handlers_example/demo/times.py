"""The recorded executions of handlers, and their statistics. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


class Execution(NamedTuple):
    """One run of a handler. `done` is the number of messages that it acked. Times are monotonic seconds."""

    queue: str
    attempt: int
    done: int
    began_at: float
    ended_at: float

    def line(self) -> bytes:
        """Return this execution as a line of the file."""
        return f"{self.queue} {self.attempt} {self.done} {self.began_at:.6f} {self.ended_at:.6f}\n".encode()

    @classmethod
    def parse(cls, line: str) -> Execution:
        """Parse a line that `line` has made."""
        queue, attempt, done, began_at, ended_at = line.split()
        return cls(queue, int(attempt), int(done), float(began_at), float(ended_at))


@dataclass(frozen=True, slots=True)
class Times:
    """The statistics of one queue. `rate` is in messages per second, from the first start to the last end."""

    handled: int
    retried: int
    median_ms: float
    p95_ms: float
    rate: float

    @classmethod
    def of(cls, executions: Iterable[Execution]) -> Times:
        """Compute the statistics; with fewer than two executions, all but `handled` is 0."""
        runs = list(executions)
        if len(runs) < 2:
            return cls(sum(run.done for run in runs), 0, 0.0, 0.0, 0.0)
        twentieths = statistics.quantiles((1000 * (run.ended_at - run.began_at) for run in runs), n=20)
        handled = sum(run.done for run in runs)
        took_s = max(run.ended_at for run in runs) - min(run.began_at for run in runs)
        return cls(handled, sum(run.attempt > 1 for run in runs), twentieths[9], twentieths[18], handled / took_s)
