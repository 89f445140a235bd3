"""A message that eats memory is found out, although its worker wishes to be recycled and dies while it drains."""

from __future__ import annotations

from tests.broker.apps import Recorded
from tests.broker.crashes.test_quarantine import quarantined
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

EATING = """
    import asyncio
    import os
    import signal
    import time
    from pathlib import Path

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume(Queue(os.environ["QUEUE"], type=os.environ["TYPE"]), concurrency=4)
    async def work(message_id: str) -> None:
        ledger.start(message_id)
        if message_id.startswith("eat"):
            eaten = bytearray(200_000_000)
            eaten[::4096] = b"x" * len(eaten[::4096])
            give_up_at = time.monotonic() + 20
            # Its worker is told to drain when its replacement is ready.
            while "[draining]" not in Path("/proc/self/cmdline").read_text() and time.monotonic() < give_up_at:
                await asyncio.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when there is no memory left
        ledger.finish(message_id)
"""


def test_message_that_kills_a_worker_on_its_way_out_is_set_aside(
    recorded: Recorded, broker_url: str, queue_name: str
) -> None:
    killer = f"eat!{queue_name}"
    recorded.publish_ids([killer])

    def is_set_aside() -> bool:
        with Client(broker_url) as client:
            quarantine = f"{queue_name}.quarantine"
            return client.exists(quarantine) and client.counts(quarantine).messages == 1

    with recorded.service("--workers=2", "--max-rss=150MB", source=EATING) as service:
        wait_until(is_set_aside, 120, "the killer in quarantine")
        service.stop()
        assert service.events("recycle_wished", why="rss")
        assert "SIGKILL (recycle)" in service.log_text(), "it has killed a worker that was draining"
    assert list(quarantined(broker_url, queue_name)) == [killer]
