"""What takes part in a contest: a contender is a client library, set up in one way, with a program for each work.

A program is a process that gets its job in the environment (see `Job.environment`) and reports by a file. Programs in
Python use `bench.client`; programs in other languages do the same by hand:

- consume: take BENCH_MESSAGES messages from BENCH_QUEUE, which is filled already, and settle each one after its
  handler. The clocks run from the first to the last message. Then report, and go on until SIGTERM.
- relay: the same, and publish each message to BENCH_TARGET with a confirm before it is settled.
- publish: publish BENCH_MESSAGES persistent, mandatory and confirmed messages of BENCH_BODY_BYTES to BENCH_QUEUE, at
  most BENCH_WINDOW of them unconfirmed. With BENCH_RATE above 0 the loop is open: one message is due every 1/rate
  seconds, and its latency counts from then. Then report, and end.

The report is JSON in the file BENCH_REPORT, written under another name and renamed, so that nobody reads half of it:
`{"wall_s": ..., "cpu_s": ...}` with the CPU time of the whole process (getrusage), and for an open loop `p50_ms`,
`p95_ms` and `p99_ms`.
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.client.payload import payload
from tests.rabbit.client import Client

SETTABLE: Mapping[str, Callable[[str], Any]] = {
    "messages": int,
    "queue_type": str,
    "body_bytes": int,
    "concurrency": int,
    "prefetch": int,
    "window": int,
    "rate": float,
}
"""The fields of a job that the command line may change."""


class Unavailable(Exception):
    """A contender cannot take part on this machine; the text says what is missing. The report shows it."""


class Work(enum.StrEnum):
    """What a program can be asked to do."""

    CONSUME = "consume"
    PUBLISH = "publish"
    RELAY = "relay"


@dataclass(frozen=True, slots=True)
class Job:
    """What a program does in one round."""

    work: Work
    messages: int
    queue_type: str = "classic"
    body_bytes: int = 256
    concurrency: int = 1000
    prefetch: int = 1000
    """Of both: 0 for what the contender takes when nothing is said."""
    window: int = 1000
    rate: float = 0.0
    """Messages per second of an open loop; 0 for a closed one."""
    url: str = ""
    queue: str = ""
    target: str = ""
    """The queue that a relay publishes to."""

    def changed(self, settings: Iterable[str]) -> Job:
        """Return the job with settings such as "window=100" in place of its own. Raises ValueError for another one."""
        texts = {name: text for name, _, text in (setting.partition("=") for setting in settings)}
        if unknown := texts.keys() - SETTABLE.keys():
            raise ValueError(f"{', '.join(unknown)} cannot be set; these can: {', '.join(SETTABLE)}")
        return dataclasses.replace(self, **{name: SETTABLE[name](text) for name, text in texts.items()})

    def environment(self, report: Path) -> dict[str, str]:
        """Return the job as variables: BENCH_WORK, BENCH_URL, BENCH_QUEUE_TYPE and so on."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return {f"BENCH_{name.upper()}": str(value) for name, value in (fields | {"report": report}).items()}


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of a contender that is ready to run. They start in the root of the repository."""

    version: str
    """The versions that matter, for the report, such as "amqp091-go 1.5.0, Go 1.19.8"."""
    commands: Mapping[Work, Sequence[str]]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables beside those of the job."""


def fill(client: Client, job: Job) -> None:
    """Declare the queue of the job, and for a consumer publish its messages: persistent JSON objects."""
    for name in filter(None, (job.queue, job.target)):
        declare(client, name, job.queue_type)
    if job.work is not Work.PUBLISH:
        body = json.dumps(payload(job.body_bytes), separators=(",", ":")).encode()
        client.publish(job.queue, (body for _ in range(job.messages)))


def declare(client: Client, queue: str, queue_type: str) -> None:
    """Declare a durable queue, as mxworker does too: a client that declares it with other arguments gets a 406."""
    if queue_type == "quorum":
        client.declare_quorum(queue)
    else:
        client.declare(queue, arguments={"x-queue-type": queue_type})


@dataclass(frozen=True, slots=True)
class Contender:
    """A client library, set up as its documentation recommends for throughput."""

    name: str
    prepare: Callable[[], Programs]
    """Install or compile what is needed; called once, before the first round. Raises Unavailable."""
    works: frozenset[Work] = frozenset(Work)
    fill: Callable[[Client, Job], None] = fill
    """Declares and fills the queue, which does not exist yet; frameworks with messages of their own replace it."""
    leftovers: Callable[[Job], Sequence[str]] = lambda job: ()
    """The queues that the contender declares beside those of the job; they are deleted before each round."""
    share: float = 1.0
    """Of the messages of a job, how many this contender gets: a slow one needs fewer for a run of the same length."""
    on_wire: bool = True
    """Whether the program works with the wire server, whose messages are all alike: plain JSON."""
    queue_types: frozenset[str] = frozenset({"classic", "quorum"})
    """The types of queues with which the program works."""
