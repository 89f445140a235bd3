"""Messages that are published all the time, in a thread of their own, while a test breaks things."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from mxworker import Publisher
from tests.broker.publishers import Reported

_AT_ONCE = 20
_PAUSE_S = 0.05  # between two publishes of one task: about 300 a second in all
_END_WITHIN_S = 120.0


class Traffic:
    """What is published to one queue, and what the publisher said of each message."""

    def __init__(self, queue: str, count: int) -> None:
        self.reported = Reported()
        self._queue = queue
        self._count = count
        self._begun_at: dict[str, float] = {}
        self._confirmed_at: dict[str, float] = {}
        self._enough = threading.Event()

    async def run(self, urls: Sequence[str]) -> None:
        """Publish `count` messages, and on until `stop` was called."""
        async with Publisher.connect(*urls) as publisher, asyncio.TaskGroup() as tasks:
            for _ in range(_AT_ONCE):
                tasks.create_task(self._publish(publisher))

    async def _publish(self, publisher: Publisher) -> None:
        while len(self._begun_at) < self._count or not self._enough.is_set():
            body = f"{self._queue}-{len(self._begun_at)}"
            self._begun_at[body] = time.monotonic()
            await self.reported.publish(publisher, body, self._queue)
            if body in self.reported.confirmed:
                self._confirmed_at[body] = time.monotonic()
            await asyncio.sleep(_PAUSE_S)

    def stop(self, at_once: bool) -> None:
        """End it: at once, or when `count` messages were published."""
        if at_once:
            self._count = 0
        self._enough.set()

    def confirmed_since(self, instant: float) -> dict[str, float]:
        """Return the messages whose publish began after a monotonic instant, and when each was confirmed."""
        return {body: at for body, at in list(self._confirmed_at.items()) if self._begun_at[body] > instant}


@contextmanager
def traffic(urls: Sequence[str], queue: str, count: int) -> Iterator[Traffic]:
    """Publish to `queue` for as long as the block runs, at least `count` messages; then all have their outcome."""
    flow = Traffic(queue, count)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(flow.run(urls))
        except BaseException as error:  # raised again in the test's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="traffic", daemon=True)
    thread.start()
    has_failed = True
    try:
        yield flow
        has_failed = False
    finally:
        flow.stop(at_once=has_failed)
        thread.join(_END_WITHIN_S)
    assert not thread.is_alive(), "the traffic did not end"
    if failures:
        raise failures[0]
