"""What goes on beside a test that does something to a service, in threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.broker.apps import Recorded
from tests.rabbit.client import Client

_END_WITHIN_S = 30.0
_COUNT_EVERY_S = 0.02  # a whole roll takes a fraction of a second


@contextmanager
def publishing(url: str, recorded: Recorded, count: int, every_s: float) -> Iterator[None]:
    """Publish `count` messages every `every_s` seconds for as long as the block runs."""
    with Client(url) as client, _repeating(lambda: recorded.publish(count, client), every_s):
        yield


@contextmanager
def counted_consumers(url: str, queue: str) -> Iterator[list[int]]:
    """Count the consumers of `queue` about every 20 ms for as long as the block runs; the counts come in order."""
    counts: list[int] = []
    with Client(url) as client, _repeating(lambda: counts.append(client.counts(queue).consumers), _COUNT_EVERY_S):
        yield counts


@contextmanager
def _repeating(act: Callable[[], None], every_s: float) -> Iterator[None]:
    enough = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not enough.wait(every_s):
                act()
        except BaseException as error:  # raised again in the test's thread
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join(_END_WITHIN_S)
    assert not thread.is_alive(), "a thread of the test did not end"
    if failures:
        raise failures[0]
