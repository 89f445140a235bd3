"""Publish bodies one after the other, each confirmed, with a bounded number on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mxworker.amqp.publishing.open_publishes import OpenPublishes
from mxworker.amqp.publishing.publisher import Publisher
from mxworker.cli.publish.bodies import Body
from mxworker.errors import PublishError

AT_ONCE = 1000
BYTES_AT_ONCE = 16 * 1024 * 1024
MOST_FAILURES = 20
"""After so many failures nothing further is sent: they are likely to be of one kind."""


@dataclass(slots=True)
class Sent:
    """What has become of the messages. `failures` has a text for each message that is not confirmed."""

    confirmed: int = 0
    failures: list[str] = field(default_factory=list)
    stopped: str | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """How bodies are published: with `options` of `Publisher.publish`, at most `rate` in a second.

    `on_progress` gets the number of messages and of read bytes that are done with. `why_stop` may return a reason.
    """

    options: dict[str, Any]
    rate: float | None = None
    on_progress: Callable[[int, int], None] = lambda messages, read_bytes: None
    why_stop: Callable[[], str | None] = lambda: None


class Sending:
    """Publishes bodies, once."""

    def __init__(self, publisher: Publisher, order: Order) -> None:
        self._publisher = publisher
        self._order = order
        self._sent = Sent()

    async def run(self, bodies: Iterable[Body]) -> Sent:
        """Publish the bodies, and return what has become of them. Raises what `bodies` raises."""
        publishes = OpenPublishes[Body](AT_ONCE, BYTES_AT_ONCE, self._order.rate, self._ended)
        for body in bodies:
            await publishes.turn()
            if self._is_over():
                break
            self._send(body, publishes)
        await publishes.end_all()
        return self._sent

    def _is_over(self) -> bool:
        if self._sent.stopped is None:
            self._sent.stopped = self._order.why_stop()
        if self._sent.stopped is None and len(self._sent.failures) >= MOST_FAILURES:
            self._sent.stopped = f"{MOST_FAILURES} messages failed"
        return self._sent.stopped is not None

    def _send(self, body: Body, publishes: OpenPublishes[Body]) -> None:
        if body.fault is not None:
            self._fail(body, body.fault)
            return
        try:
            options = {"content_type": body.content_type, **self._order.options}
            receipt = self._publisher.publish_nowait(body.content, **options)
        except PublishError as error:
            self._ended(body, error)
        else:
            publishes.add(receipt, len(body.content), body)

    def _ended(self, body: Body, error: PublishError | None) -> None:
        if error is None:
            self._sent.confirmed += 1
            self._order.on_progress(1, body.read_bytes)
            return
        self._fail(body, str(error))
        if not error.permanent and self._sent.stopped is None:
            self._sent.stopped = "the broker does not take messages now"

    def _fail(self, body: Body, why: str) -> None:
        self._sent.failures.append(f"{body.place} was not published: {why}")
        self._order.on_progress(1, body.read_bytes)
