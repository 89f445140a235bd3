"""Publishing with confirms: closed loops with windows, and open loops whose latency is measured."""

from __future__ import annotations

from bench.contenders import Job, Work
from bench.contest import contest
from bench.ours.contenders import MXWORKER, ON_313, ON_ASYNCIO
from bench.rivals.contenders import CONTENDERS
from bench.rivals.libraries import AIORMQ
from bench.scenario import Scenario
from bench.scenarios.consuming import fast

MESSAGES = 20_000
OPEN_LOOP_S = 3
RATES = (1667, 5000)
MESSAGES_OF_WINDOW = {1: 2_000, 100: MESSAGES, 10_000: MESSAGES}

PUBLISHING: tuple[Scenario, ...] = (
    contest(
        "wire-publish",
        "publish to a server that is only the wire, at most 1,000 unconfirmed",
        Job(Work.PUBLISH, 2 * MESSAGES),
        (MXWORKER, ON_313, *fast(CONTENDERS), AIORMQ),
        on_wire=True,
    ),
    *(
        contest(
            f"publish-{queue_type}",
            f"publish to a {queue_type} queue, at most 1,000 unconfirmed",
            Job(Work.PUBLISH, MESSAGES, queue_type),
            (MXWORKER, ON_ASYNCIO, ON_313, *CONTENDERS),
        )
        for queue_type in ("classic", "quorum")
    ),
    *(
        contest(
            f"publish-window-{window}",
            f"publish to a classic queue, at most {window:,} unconfirmed",
            Job(Work.PUBLISH, messages, window=window),
            (MXWORKER, *fast(CONTENDERS)),
        )
        for window, messages in MESSAGES_OF_WINDOW.items()
    ),
    *(
        contest(
            f"latency-{rate}-{queue_type}",
            f"publish {rate:,} messages a second to a {queue_type} queue",
            Job(Work.PUBLISH, rate * OPEN_LOOP_S, queue_type, window=10_000, rate=float(rate)),
            (MXWORKER, *fast(CONTENDERS)),
        )
        for rate in RATES
        for queue_type in ("classic", "quorum")
    ),
)
