"""A steady load of 100,000 messages a minute: how much of a core it takes to consume them, one by one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from bench.contenders import Contender, Job, Work, declare
from bench.contest import QUEUE, prepared, run, running
from bench.ours.contenders import MXWORKER, ON_313
from bench.scenario import Measures, Place, Scenario
from bench.scenarios.consuming import GO, rivals
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

RATE = 1667
SECONDS = 3
_READY_S = 30.0


@dataclass(frozen=True, slots=True)
class SteadyConsumer:
    """A contender that consumes while another process publishes at a fixed rate."""

    contender: Contender

    @property
    def name(self) -> str:
        """The name of the contender."""
        return self.contender.name

    def prepare(self) -> str:
        """Install or compile the contender's programs."""
        prepared(MXWORKER)
        return prepared(self.contender).version

    def measure(self, place: Place) -> Measures:
        """Start the consumer, then publish, and return the consumer's CPU time from its first to its last message."""
        messages = place.scaled(RATE * SECONDS)
        url = place.broker_url()
        job = Job(Work.CONSUME, messages, concurrency=32, prefetch=64, url=url, queue=QUEUE)
        publishing = dataclasses.replace(job, work=Work.PUBLISH, window=10_000, rate=float(RATE))
        with Client(url) as client:
            client.delete(QUEUE)
            declare(client, QUEUE, job.queue_type)
            with running(prepared(self.contender), job, place) as wait:
                wait_until(lambda: client.counts(QUEUE).consumers, _READY_S, f"a consumer of {self.name}")
                run(prepared(MXWORKER), publishing, dataclasses.replace(place, folder=place.folder / "publisher"))
                report = wait()
            client.delete(QUEUE)
        return {
            "cpu_share": report["cpu_s"] / report["wall_s"] * 100,
            "cpu_us": report["cpu_s"] / messages * 1e6,
        }


STEADY: tuple[Scenario, ...] = (
    Scenario(
        "cpu-at-1667",
        "CPU used to consume 1,667 messages a second (100,000 a minute), one by one",
        tuple(map(SteadyConsumer, (MXWORKER, ON_313, *rivals(GO)))),
        "cpu_share",
    ),
)
