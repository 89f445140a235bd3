"""Deliveries gathered into batches: complete by count, by bytes, or by the age of the first one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace

from mxworker.api.delivery import Delivery
from mxworker.api.registration import Batch
from mxworker.worker.handling.clock import Clock, Timer


class Gathered:
    """One batch, at most `Batch.size` deliveries. Compared by identity: it is a unit of work."""

    __slots__ = ("__weakref__", "bytes", "deliveries", "is_closed")

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.bytes = 0
        self.is_closed = False
        """Whether the batch takes no more deliveries. You must set it when you start the batch or give it back."""

    @classmethod
    def alone(cls, delivery: Delivery) -> Gathered:
        """Return a batch of one delivery that takes no more."""
        return cls.of([delivery])

    @classmethod
    def of(cls, deliveries: Iterable[Delivery]) -> Gathered:
        """Return a batch that takes no more."""
        gathered = cls()
        for delivery in deliveries:
            gathered.put(delivery)
        gathered.is_closed = True
        return gathered

    def fits(self, delivery: Delivery, batch: Batch) -> bool:
        """Whether the batch still takes `delivery`."""
        return (
            not self.is_closed
            and len(self.deliveries) < batch.size
            and self.bytes + len(delivery.body) <= batch.max_bytes
        )

    def put(self, delivery: Delivery) -> None:
        """Add `delivery`."""
        self.deliveries.append(delivery)
        self.bytes += len(delivery.body)


class Gatherer:
    """Gathers the deliveries of one handler. Belongs to one event loop."""

    def __init__(self, batch: Batch, clock: Clock, admit: Callable[[Gathered], None]) -> None:
        """`admit` takes each batch when it is complete."""
        self._batch = batch
        self._clock = clock
        self._admit = admit
        self._open: Gathered | None = None
        # The last batch that was handed on: it grows until it is started. The reference is weak, since a batch has the
        # bodies of all its deliveries.
        self._handed_on: Callable[[], Gathered | None] = lambda: None
        self._timer: Timer | None = None

    @property
    def waiting(self) -> int:
        """The number of deliveries in the batch that is not complete yet."""
        return len(self._open.deliveries) if self._open is not None else 0

    @property
    def gathering(self) -> tuple[Delivery, ...]:
        """The deliveries in the batch that is not complete yet."""
        return tuple(self._open.deliveries) if self._open is not None else ()

    def add(self, *deliveries: Delivery) -> None:
        """Take deliveries. One that would make the batch too large begins the next batch."""
        for delivery in deliveries:
            self._add(delivery)

    def _add(self, delivery: Delivery) -> None:
        batch = self._batch
        if self._open is not None and self._open.bytes + len(delivery.body) > batch.max_bytes:
            self.complete()
        if self._open is None:
            waiting = self._handed_on()
            if waiting is not None and waiting.fits(delivery, batch):
                waiting.put(delivery)
                return
            self._open = Gathered()
            self._timer = self._clock.call_later(batch.wait_s, self.complete)
        gathered = self._open
        gathered.deliveries.append(delivery)
        gathered.bytes += len(delivery.body)
        if len(gathered.deliveries) >= batch.size or gathered.bytes >= batch.max_bytes:
            self.complete()

    def complete(self) -> None:
        """Hand on the batch that is being gathered, if there is one."""
        gathered = self.take()
        if gathered is not None:
            self._handed_on = weakref.ref(gathered)
            self._admit(gathered)

    def take(self) -> Gathered | None:
        """Return the batch that is being gathered, or None, without handing it on. A new one begins afterwards."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._open = self._open, None
        return gathered

    def stop(self) -> None:
        """Hand on the batch that is being gathered, and from now on each delivery at once, alone."""
        self._batch = replace(self._batch, size=1)
        self.complete()
