"""A contest: contenders do the same job in turn, on RabbitMQ or on the wire server."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import Contender, Job, Programs, Work
from bench.scenario import Failed, Measures, Place, Scenario
from bench.wire.server import Counts, wire_server
from tests.harness.repository import REPOSITORY
from tests.rabbit.client import Client
from tests.rabbit.processes import DIES_WITH_PARENT

QUEUE = "mxworker-bench"
TARGET = "mxworker-bench-relayed"
_DEADLINE_S = 60.0
_LOOK_S = 0.02
_STOP_S = 20.0
_SETTLED_S = 5.0
_SHOWN_CHARACTERS = 600


Report = dict[str, float]
"""What a program reports, see `bench.contenders`."""


def contest(name: str, title: str, job: Job, contenders: Iterable[Contender], on_wire: bool = False) -> Scenario:
    """Return the scenario in which those of the contenders that can do the job take turns at it."""
    able = [each for each in contenders if can(each, job) and (each.on_wire or not on_wire)]
    compared = "p95_ms" if job.rate else "rate"
    return Scenario(name, title, tuple(Contestant(each, job, on_wire) for each in able), compared)


def can(contender: Contender, job: Job) -> bool:
    """Say whether the contender has a program for the job."""
    return job.work in contender.works and job.queue_type in contender.queue_types


@functools.cache
def prepared(contender: Contender) -> Programs:
    """Return the programs of a contender, made ready once in a run."""
    return contender.prepare()


@dataclass(frozen=True, slots=True)
class Contestant:
    """A contender with its job."""

    contender: Contender
    job: Job
    on_wire: bool

    @property
    def name(self) -> str:
        """The name of the contender."""
        return self.contender.name

    def prepare(self) -> str:
        """Install or compile the contender's programs."""
        return prepared(self.contender).version

    def changed(self, settings: Iterable[str]) -> Contestant:
        """Return the contestant with `settings` such as "window=100" in its job. Raises ValueError for another one."""
        return dataclasses.replace(self, job=self.job.changed(settings))

    def measure(self, place: Place) -> Measures:
        """Let the contender do its job once, with fresh queues."""
        messages = max(1, round(place.scaled(self.job.messages) * self.contender.share))
        target = TARGET if self.job.work is Work.RELAY else ""
        job = dataclasses.replace(self.job, messages=messages, queue=QUEUE, target=target)
        with self._server(job, place) as url:
            report = run(prepared(self.contender), dataclasses.replace(job, url=url), place)
        return measures(job, report)

    @contextmanager
    def _server(self, job: Job, place: Place) -> Iterator[str]:
        if self.on_wire:
            with wire_server(job.queue, job.messages if job.work is Work.CONSUME else 0, job.body_bytes) as server:
                yield server.url
                check_counts(server.stop(), job)
            return
        url = place.broker_url()
        with Client(url) as client:
            self._empty(client, job)
            self.contender.fill(client, dataclasses.replace(job, url=url))
        yield url
        with Client(url) as client:
            check_queues(client, job)
            self._empty(client, job)

    def _empty(self, client: Client, job: Job) -> None:
        for queue in filter(None, (job.queue, job.target, *self.contender.leftovers(job))):
            client.delete(queue)


def run(programs: Programs, job: Job, place: Place) -> Report:
    """Start the program, wait for its report, end it, and return the report. Raises Failed."""
    with running(programs, job, place) as wait:
        return wait()


@contextmanager
def running(programs: Programs, job: Job, place: Place) -> Iterator[Callable[[], Report]]:
    """Run a program while the block runs, and yield a function that waits for its report, which may raise Failed."""
    place.folder.mkdir(exist_ok=True)
    report, log = place.folder / "report.json", place.folder / "log.txt"
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        **programs.environment,
        **job.environment(report),
    }
    if place.profile_kind:
        environment |= {"BENCH_PROFILE": str(place.profile), "BENCH_PROFILE_KIND": place.profile_kind}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*DIES_WITH_PARENT, *programs.commands[job.work]],
            env=environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield lambda: _await(report, process, log)
    finally:
        _end(process, gently=report.exists())


def _await(report: Path, process: subprocess.Popen[bytes], log: Path) -> Report:
    deadline = time.monotonic() + _DEADLINE_S
    while not report.exists():
        code = process.poll()
        if code is not None and not report.exists():
            raise Failed(f"it ended with {code} before its report: {_end_of(log)}")
        if time.monotonic() > deadline:
            raise Failed(f"it did not report within {_DEADLINE_S:g} s: {_end_of(log)}")
        time.sleep(_LOOK_S)
    found: Report = json.loads(report.read_text(encoding="utf-8"))
    return found


def _end(process: subprocess.Popen[bytes], gently: bool) -> None:
    """Stop the program, then whatever it has started."""
    if gently:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-_SHOWN_CHARACTERS:].strip() or "it printed nothing"


def check_queues(client: Client, job: Job) -> None:
    """Raise Failed when the queues do not hold what they should after the job."""
    wanted = {job.queue: job.messages if job.work is Work.PUBLISH else 0}
    if job.target:
        wanted[job.target] = job.messages
    deadline = time.monotonic() + _SETTLED_S
    while (found := {queue: client.counts(queue).messages for queue in wanted}) != wanted:
        if time.monotonic() > deadline:
            raise Failed(f"after the job the queues should hold {wanted}, and hold {found}")
        time.sleep(_LOOK_S)


def check_counts(counts: Counts, job: Job) -> None:
    """Raise Failed when the wire server did not get what it should."""
    found = counts.settled if job.work is Work.CONSUME else counts.published
    if found != job.messages:
        raise Failed(f"after {job.messages} messages the server has counted {counts}")


def measures(job: Job, report: Report) -> Measures:
    """Return what the report of a program says about each message."""
    found = {
        "rate": job.messages / report["wall_s"],
        "cpu_us": report["cpu_s"] / job.messages * 1e6,
    }
    if job.rate:
        found["cpu_share"] = report["cpu_s"] / report["wall_s"] * 100
    return found | {name: value for name, value in report.items() if name.endswith("_ms")}
