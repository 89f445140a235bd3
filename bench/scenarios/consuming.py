"""Draining a queue with handlers that do nothing, at the defaults and with 1,000 at once; and passing messages on."""

from __future__ import annotations

import dataclasses

from bench.contenders import Contender, Job, Work
from bench.contest import contest
from bench.ours.contenders import (
    AS_BYTES,
    IN_BATCHES,
    MXWORKER,
    ON_313,
    ON_ASYNCIO,
    TYPED,
    WITH_MIDDLEWARE,
    WITHOUT_METRICS,
)
from bench.rivals.contenders import CONTENDERS
from bench.rivals.frameworks import FRAMEWORKS
from bench.scenario import Scenario

MESSAGES = 20_000
AT_DEFAULTS = Job(Work.CONSUME, MESSAGES, concurrency=32, prefetch=64)
OURS = (AS_BYTES, TYPED, WITH_MIDDLEWARE, WITHOUT_METRICS, IN_BATCHES, ON_ASYNCIO, ON_313)
GO, LIMIT, AIO_PIKA = "Go", "C, one ack per 200", "aio-pika"


def rivals(*names: str) -> tuple[Contender, ...]:
    """Return the contenders of these names."""
    return tuple(each for each in CONTENDERS if each.name in names)


CONSUMING: tuple[Scenario, ...] = (
    contest(
        "wire-consume",
        "consume from a server that is only the wire, 1,000 at once",
        Job(Work.CONSUME, 3 * MESSAGES),
        (MXWORKER, ON_313, IN_BATCHES, *rivals(GO, LIMIT, "aiormq")),
        on_wire=True,
    ),
    contest(
        "wire-consume-defaults",
        "consume from a server that is only the wire, concurrency 32, prefetch 64",
        dataclasses.replace(AT_DEFAULTS, messages=3 * MESSAGES),
        (MXWORKER, ON_313, *rivals(GO)),
        on_wire=True,
    ),
    contest(
        "consume-classic",
        "consume from a classic queue, 1,000 at once",
        Job(Work.CONSUME, MESSAGES),
        (MXWORKER, *OURS, *CONTENDERS),
    ),
    contest(
        "consume-defaults",
        "consume from a classic queue, concurrency 32, prefetch 64",
        AT_DEFAULTS,
        (MXWORKER, *rivals(GO, LIMIT)),
    ),
    contest(
        "consume-own-defaults",
        "consume from a classic queue, each client with its own defaults",
        Job(Work.CONSUME, MESSAGES, concurrency=0, prefetch=0),
        (MXWORKER, *rivals(GO, AIO_PIKA), *FRAMEWORKS),
    ),
    contest(
        "consume-quorum",
        "consume from a quorum queue, 1,000 at once",
        Job(Work.CONSUME, MESSAGES, "quorum"),
        (MXWORKER, IN_BATCHES, *rivals(GO, LIMIT)),
    ),
    *(
        contest(
            f"consume-{name}",
            f"consume bodies of {name} from a classic queue",
            Job(Work.CONSUME, messages, body_bytes=size),
            (MXWORKER, *rivals(GO, LIMIT)),
        )
        for name, size, messages in (("4KB", 4096, 10_000), ("64KB", 65_536, 2_000))
    ),
    contest(
        "relay",
        "consume, publish confirmed, ack, on quorum queues",
        Job(Work.RELAY, MESSAGES // 2, "quorum"),
        (MXWORKER, *CONTENDERS),
    ),
)
