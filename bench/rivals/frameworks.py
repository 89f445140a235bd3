"""The frameworks in Python.

Some have messages of their own. To fill a queue for them, their own client publishes one message, and copies of it are
put into the queue. So all of them handle the same payload, in the wrapping of their framework.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.contenders import Contender, Job, Programs, Work, declare
from bench.contest import run
from bench.rivals.in_python import InPython
from bench.scenario import Failed, Place
from tests.rabbit.client import Client, Received

_BOTH = frozenset({Work.CONSUME, Work.PUBLISH})
_CLASSIC = frozenset({"classic"})
_ALL_TYPES = _CLASSIC | {"quorum"}
_ON_UVLOOP = {"BENCH_UVLOOP": "1"}
Arguments = Callable[[Job], Mapping[str, Any]]


@functools.cache
def sample(prepare: Callable[[], Programs], url: str, queue: str, body_bytes: int) -> Received:
    """Return a message that the framework has published to `queue`, which exists and is empty. Raises Failed."""
    job = Job(Work.PUBLISH, 1, body_bytes=body_bytes, url=url, queue=queue)
    with tempfile.TemporaryDirectory(prefix="mxworker-bench-") as folder:
        run(prepare(), job, Place(Path(folder), 1.0, lambda: url))
    with Client(url) as client:
        got = client.get(queue)
    if got is None:
        raise Failed("it has published a message that did not come into the queue")
    return got


def filler(prepare: Callable[[], Programs], arguments: Arguments | None = None) -> Callable[[Client, Job], None]:
    """Return what fills a queue with messages of the framework. `arguments` are those with which it declares it."""

    def fill(client: Client, job: Job) -> None:
        if arguments is None:
            declare(client, job.queue, job.queue_type)
        else:
            client.declare(job.queue, arguments=arguments(job))
        if job.work is Work.CONSUME:
            message = sample(prepare, job.url, job.queue, job.body_bytes)
            client.publish(job.queue, (message.body for _ in range(job.messages)), message.properties)

    return fill


def framework(
    name: str,
    prepare: InPython,
    share: float,
    arguments: Arguments | None = None,
    leftovers: Callable[[Job], Sequence[str]] = lambda job: (),
    queue_types: frozenset[str] = _ALL_TYPES,
    works: frozenset[Work] = _BOTH,
) -> Contender:
    """Return a framework whose messages have a wrapping, so that it cannot consume from the wire server."""
    fill = filler(prepare, arguments)
    return Contender(name, prepare, works, fill, leftovers, share, on_wire=False, queue_types=queue_types)


def _dramatiq_arguments(job: Job) -> Mapping[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{job.queue}.XQ"}


def _taskiq_arguments(job: Job) -> Mapping[str, Any]:
    dead_letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{job.queue}.dead"}
    return {"x-queue-type": job.queue_type, **dead_letters}


_CELERY = ("celery", "kombu")
CELERY = framework("Celery", InPython("celery", _CELERY, _BOTH), 0.15)
CELERY_PREFORK = framework(
    "Celery, prefork",
    InPython("celery", _CELERY, _BOTH, {"BENCH_POOL": "prefork"}),
    0.15,
    works=frozenset({Work.CONSUME}),
)
CELERY_NO_CONFIRMS = framework(
    "Celery, no confirms",
    InPython("celery", _CELERY, _BOTH, {"BENCH_NO_CONFIRMS": "1"}),
    0.15,
    works=frozenset({Work.PUBLISH}),
    queue_types=_CLASSIC,
)
"""Its default, with which a message may be lost."""
DRAMATIQ = framework(
    "Dramatiq",
    InPython("dramatiq", ("dramatiq", "pika"), _BOTH),
    0.3,  # its consumer decodes what is prefetched before the first message is handled, so fewer would flatter it
    _dramatiq_arguments,
    lambda job: (f"{job.queue}.DQ", f"{job.queue}.XQ"),
    _CLASSIC,  # it declares its queues itself, and knows no other type
)
TASKIQ = framework(
    "taskiq",
    InPython("taskiq", ("taskiq", "taskiq-aio-pika", "aio-pika", "uvloop"), _BOTH, _ON_UVLOOP),
    0.1,
    _taskiq_arguments,
    lambda job: (f"{job.queue}.dead",),
)
FASTSTREAM = Contender(
    "FastStream",
    InPython("faststream", ("faststream", "aio-pika", "uvloop"), _BOTH, _ON_UVLOOP),
    _BOTH,
    share=0.15,
)
RABBITKIT = Contender("rabbitkit", InPython("rabbitkit", ("rabbitkit", "aio-pika"), _BOTH), _BOTH, share=0.15)

FRAMEWORKS = (CELERY, CELERY_PREFORK, CELERY_NO_CONFIRMS, DRAMATIQ, FASTSTREAM, TASKIQ, RABBITKIT)
