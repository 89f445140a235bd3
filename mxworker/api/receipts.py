"""The receipt of a publish, the outcomes that it can have, and functions that wait for many receipts.

A receipt ends exactly once, in `Confirmed` or in a `PublishError`. Awaiting a receipt raises CancelledError only when
the waiting task itself is cancelled.

This module knows nothing about connections and channels. A receipt belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop  # None without one, and at a fifth of the price of an exception
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from mxworker.errors import PublishError

WAIT_S = 30.0


class Confirmed:
    """The broker has taken responsibility for the message (https://www.rabbitmq.com/docs/confirms#publisher-confirms)."""

    __slots__ = ("may_be_unrouted", "message_id")

    def __init__(self, message_id: str, may_be_unrouted: bool = False) -> None:
        self.message_id = message_id
        self.may_be_unrouted = may_be_unrouted
        """Whether the message may have reached no queue: it was published with `mandatory=False`, or as a direct reply.

        Otherwise it is in a queue.
        """

    def __repr__(self) -> str:
        return f"Confirmed({self.message_id!r})"


class Receipt:
    """The outcome of one publish, known or to come. `await receipt` returns `Confirmed` or raises the PublishError."""

    __slots__ = ("_error", "_is_done", "_loop", "_waiters", "is_observed", "may_be_unrouted", "message_id")

    def __init__(self, message_id: str, may_be_unrouted: bool = False) -> None:
        """Open a receipt for the message that carries `message_id`; `may_be_unrouted`: see `Confirmed`."""
        self.message_id = message_id
        self.may_be_unrouted = may_be_unrouted
        self.is_observed = False
        """Whether a caller has read the outcome."""
        self._is_done = False
        self._error: PublishError | None = None
        self._loop = _get_running_loop()
        self._waiters: list[asyncio.Future[None]] | None = None

    def done(self) -> bool:
        """Whether the outcome is known."""
        return self._is_done

    def result(self) -> Confirmed:
        """Return `Confirmed` or raise the PublishError. Raises asyncio.InvalidStateError while it is open."""
        error = self.exception()
        if error is not None:
            raise error.with_traceback(None)  # each call raises it with a traceback of its own
        return Confirmed(self.message_id, self.may_be_unrouted)

    def exception(self) -> PublishError | None:
        """Return the PublishError, or None for a confirm. Raises asyncio.InvalidStateError while it is open."""
        if not self._is_done:
            raise asyncio.InvalidStateError(f"the outcome of publish {self.message_id!r} is not known yet")
        self.is_observed = True
        return self._error

    @property
    def failed_with(self) -> str:
        """The class of the error that it ended with, or "". To ask does not count as reading the outcome."""
        return "" if self._error is None else type(self._error).__name__

    def __await__(self) -> Generator[Any, None, Confirmed]:
        if not self._is_done:
            waiter = asyncio.get_running_loop().create_future()
            self.wake(waiter)
            yield from waiter
        return self.result()

    @property
    def is_unaccounted(self) -> bool:
        """Whether the publish has failed or still may fail, and no caller has read its outcome."""
        return not self.is_observed and not (self._is_done and self._error is None)

    def wake(self, waiter: asyncio.Future[None]) -> None:
        """Resolve `waiter` when the outcome is known. The waiter may be cancelled, and may wait for other receipts too.

        Raises RuntimeError when the waiter belongs to another event loop than the publisher: it would never wake up.
        """
        if self._is_done:
            _resolve(waiter)
        elif self._loop is not None and waiter.get_loop() is not self._loop:
            raise RuntimeError(
                "a receipt can be awaited in its publisher's event loop only; in a 'def' handler, or another thread, "
                "use publish_sync(...), which waits for the confirm."
            )
        elif self._waiters is None:
            self._waiters = [waiter]
        else:
            self._waiters = [other for other in self._waiters if not other.done()]
            self._waiters.append(waiter)

    def end(self, error: PublishError | None) -> None:
        """Set the outcome: confirmed, or `error`. The publisher calls this once."""
        self._is_done = True
        self._error = error
        if self._waiters is not None:
            for waiter in self._waiters:
                _resolve(waiter)
            self._waiters = None

    def __repr__(self) -> str:
        state = "open" if not self._is_done else "confirmed" if self._error is None else type(self._error).__name__
        return f"<Receipt {self.message_id!r} {state}>"


PublishOutcome = Confirmed | PublishError
"""The outcome of a publish as a value: `publish_many` and the functions below return it where `publish` would raise."""


async def wait_all(receipts: Iterable[Receipt], timeout_s: float = WAIT_S) -> list[PublishOutcome]:
    """Wait for all receipts, and return their outcomes in the same order. Raises TimeoutError after `timeout_s`."""
    waited = list(receipts)
    still_open = await drain(waited, timeout_s)
    if still_open:
        raise TimeoutError(f"{len(still_open)} of {len(waited)} receipts are still open after {timeout_s:g} s")
    return [_outcome(receipt) for receipt in waited]


async def wait_any(receipts: Iterable[Receipt], timeout_s: float = WAIT_S) -> Receipt:
    """Wait for the first receipt whose outcome is known, and return it.

    Raises TimeoutError when there is none after `timeout_s` seconds, and ValueError for no receipts.
    """
    waited = list(receipts)
    if not waited:
        raise ValueError("there are no receipts to wait for")
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    for receipt in waited:
        receipt.wake(waiter)
    try:
        async with asyncio.timeout(timeout_s):
            await waiter
    except TimeoutError:
        raise TimeoutError(f"none of {len(waited)} receipts is done after {timeout_s:g} s") from None
    return next(receipt for receipt in waited if receipt.done())


async def drain(receipts: Iterable[Receipt], timeout_s: float = WAIT_S) -> list[Receipt]:
    """Wait for all receipts, at most `timeout_s` seconds, and return those that are still open. Raises nothing."""
    waited = list(receipts)
    try:
        async with asyncio.timeout(timeout_s):
            for receipt in waited:
                if not receipt.done():
                    await wait_any((receipt,), timeout_s)
    except TimeoutError:
        pass
    return [receipt for receipt in waited if not receipt.done()]


def results(receipts: Iterable[Receipt]) -> list[PublishOutcome | None]:
    """Return the outcomes that are known now, in the same order; None for a receipt that is still open."""
    return [_outcome(receipt) if receipt.done() else None for receipt in receipts]


def all_confirmed(receipts: Sequence[Receipt]) -> bool:
    """Whether every receipt is confirmed."""
    return all(receipt.done() and receipt.exception() is None for receipt in receipts)


def any_failed(receipts: Sequence[Receipt]) -> bool:
    """Whether at least one receipt has ended in a PublishError."""
    return any(receipt.done() and receipt.exception() is not None for receipt in receipts)


def _outcome(receipt: Receipt) -> PublishOutcome:
    error = receipt.exception()
    return receipt.result() if error is None else error


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
