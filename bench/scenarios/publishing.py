"""Publishing with confirms: closed loops with windows, and open loops whose latency is measured."""

from __future__ import annotations

from bench.contenders import Job, Work
from bench.contest import contest
from bench.ours.contenders import MXWORKER, ON_313, ON_ASYNCIO
from bench.rivals.contenders import CONTENDERS
from bench.scenario import Scenario
from bench.scenarios.consuming import GO, rivals

MESSAGES = 15_000
OPEN_LOOP_S = 2
RATES = (1667, 5000)
MESSAGES_OF_WINDOW = {1: 2_000, 100: MESSAGES, 10_000: MESSAGES}

PUBLISHING: tuple[Scenario, ...] = (
    contest(
        "wire-publish",
        "publish to a server that is only the wire, at most 1,000 unconfirmed",
        Job(Work.PUBLISH, 3 * MESSAGES),
        (MXWORKER, ON_313, *rivals(GO, "aiormq")),
        on_wire=True,
    ),
    *(
        contest(
            f"publish-{queue_type}",
            f"publish to a {queue_type} queue, at most 1,000 unconfirmed",
            Job(Work.PUBLISH, MESSAGES, queue_type),
            contenders,
        )
        for queue_type, contenders in (
            ("classic", (MXWORKER, ON_ASYNCIO, *rivals(GO, "C", "Dramatiq", "Celery, no confirms"))),
            ("quorum", (MXWORKER, ON_313, *CONTENDERS)),
        )
    ),
    *(
        contest(
            f"publish-window-{window}",
            f"publish to a classic queue, at most {window:,} unconfirmed",
            Job(Work.PUBLISH, messages, window=window),
            (MXWORKER, *rivals(GO)),
        )
        for window, messages in MESSAGES_OF_WINDOW.items()
    ),
    *(
        contest(
            f"latency-{rate}-{queue_type}",
            f"publish {rate:,} messages a second to a {queue_type} queue",
            Job(Work.PUBLISH, rate * OPEN_LOOP_S, queue_type, window=10_000, rate=float(rate)),
            (MXWORKER, *rivals(GO)),
        )
        for rate in RATES
        for queue_type in ("classic", "quorum")
    ),
)
