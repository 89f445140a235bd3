"""However many deliveries one worker has started: status counts them, and the one that kills is found among them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.broker.apps import Recorded
from tests.broker.crashes.test_quarantine import quarantined, wait_until_handled
from tests.harness import ledger
from tests.harness.ledger import START
from tests.harness.service import Service
from tests.harness.waiting import wait_until

BEFORE = 300  # started before the killer: more than the board describes

# All that come for the first time are held until the file is there; then the killer, which is one of them, kills.
HOLDING = """
    import asyncio
    import os
    import signal
    from pathlib import Path

    from mxworker import Context, Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    go = Path(os.environ["GO"])
    many = int(os.environ["MANY"])
    queue = Queue(os.environ["QUEUE"], type=os.environ["TYPE"])


    async def hold(ids: list[str], first: bool) -> None:
        for message_id in ids:
            ledger.start(message_id)
        while first and not go.exists():
            await asyncio.sleep(0.05)
        if any(message_id.startswith("killer") for message_id in ids):
            os.kill(os.getpid(), signal.SIGSEGV) if os.environ["BATCH"] else os._exit(0)
        if first:
            await asyncio.Event().wait()
        for message_id in ids:
            ledger.finish(message_id)


    if os.environ["BATCH"]:
        @handlers.consume_batch(queue, size=many, wait=600, prefetch=many)
        async def work(ids: list[str], ctx: Context) -> None:
            await hold(ids, not ctx.delivery.redelivered)
    else:
        @handlers.consume(queue, concurrency=many, prefetch=many)
        async def work(message_id: str, ctx: Context) -> None:
            await hold([message_id], not ctx.delivery.redelivered)
"""


@pytest.mark.parametrize("batch", [False, True], ids=["singly", "batch"])
def test_killer_among_many_started_ones_is_set_aside_and_nobody_else(
    recorded: Recorded, broker_url: str, queue_name: str, tmp_path: Path, scale: Callable[[int, int], int], batch: bool
) -> None:
    many = scale(350, 2000 if batch else 1000)
    innocent = [f"{queue_name}-{number}" for number in range(many - 1)]
    killer = f"killer-{queue_name}"
    recorded.publish_ids([*innocent[:BEFORE], killer, *innocent[BEFORE:]])
    env = {"GO": str(tmp_path / "go"), "MANY": str(many), "BATCH": "yes" if batch else ""}
    flags = ("--workers=1", f"--process-concurrency={many}", "--heartbeat-timeout=60s")
    with recorded.service(*flags, source=HOLDING, env=env) as service:
        wait_until(lambda: recorded.handled == many, 60, "all of them to be started")
        assert _in_flight(service) == many
        (tmp_path / "go").touch()
        wait_until_handled(recorded, set(innocent), {killer}, broker_url)
        wait_until(lambda: _in_flight(service) == 0, 30, "nothing to be in flight")
        log = service.log_text()
    assert f"{many} messages go back to the broker" in log
    (kept,) = quarantined(broker_url, queue_name).values()
    assert kept.body.decode() == killer
    starts = Counter(record.id for record in ledger.read(recorded.path) if record.event is START)
    assert starts[killer] == kept.headers["mx-kills"] == 3
    later_deaths = 2  # each resets the connection, so acks that the broker has not read yet are lost
    assert {starts[one] for one in innocent} <= set(range(2, 2 + later_deaths + 1))
    assert recorded.judge().lost == {killer}


def _in_flight(service: Service) -> int:
    status = json.loads(service.mxworker("status", "--json").stdout)
    return sum(worker["in_flight"] for worker in status["workers"])
