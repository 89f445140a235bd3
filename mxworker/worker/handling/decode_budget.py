"""The bound on what the payloads of a process take: large bodies are decoded one at a time, when there is room.

    wait for the turn -> compressed? measure it, wait for room, decompress -> wait for room, decode -> payload
                                                                                 (held until the handler has ended)

Room is what the byte budget has left. A unit, which is a delivery or a batch, that finds none waits, until others have
ended, or none of them holds a large payload any more: then it goes on alone. What could not be held even so is refused;
a batch then takes what it has, and leaves the rest for the next one. Nobody who holds a payload waits for the turn, and
only who has the turn waits for room, so nobody waits for himself.

A wait is no time of the handler's. It ends, too, when deliveries that wait are given back: at a drain or a pause, and
after a third of the broker's patience.

Small bodies know nothing of all this.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from mxworker.amqp.consuming.byte_budget import ByteBudget, reserved_bytes
from mxworker.api.compilation import Handler
from mxworker.api.decoder import whole_body, whole_delivery
from mxworker.api.delivery import Delivery
from mxworker.errors import DecodeError
from mxworker.payloads.compression import UnknownCoding, decompress, is_compressed, measured
from mxworker.system.memory import resident_bytes
from mxworker.worker.handling.bodies import ENCODED
from mxworker.worker.handling.payload_size import expected_growth, payload_size

_WORTH_A_LOOK_BYTES = 1024 * 1024  # of a body: then the memory of the process is looked at, too, which is not exact

Suspended = Callable[[], AbstractContextManager[object]]
Value = TypeVar("Value")


class Unprocessed(Exception):
    """The deliveries of a unit were not shown to their handler, and are to be given back."""


class OverBudget(DecodeError):
    """The payload does not fit into the budget, beside those of the same unit."""


class DecodeBudget:
    """The turn to decode a large body, and the room for it. Belongs to one event loop, with all that it serves."""

    def __init__(self, budget: ByteBudget) -> None:
        """Share `budget` with what was delivered and is not decoded."""
        self.budget = budget
        self.holders = 0
        """How many units hold large payloads, or are about to."""
        self._is_taken = False
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()  # at most one for each unit that runs

    async def take_turn(self, queue: str, suspended: Suspended, longest_s: float) -> None:
        """Wait for the turn, first come, first served; `leave_turn` hands it on. Raises Unprocessed."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((queue, turn))
        try:
            await _until(turn, suspended, longest_s)
        except BaseException:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave_turn()
            raise

    def leave_turn(self) -> None:
        """Hand the turn on to who has waited longest."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    async def room_for(self, more_bytes: int, suspended: Suspended, longest_s: float) -> None:
        """Wait until there is room, or nobody else holds a large payload. Raises Unprocessed."""
        if self._has_room(more_bytes):
            return
        budget: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def look() -> None:
            if not budget.done() and self._has_room(more_bytes):
                budget.set_result(None)

        self.budget.wait(look)
        try:
            await _until(budget, suspended, longest_s)
        finally:
            self.budget.stop_waiting(look)

    def _has_room(self, more_bytes: int) -> bool:
        return self.holders <= 1 or self.budget.held_bytes + more_bytes <= self.budget.limit_bytes

    def give_back(self, queue: str) -> None:
        """Have the units of a queue given back that wait for their turn."""
        for each, turn in self._waiting:
            if each == queue and not turn.done():
                turn.set_exception(Unprocessed())


async def _until(future: asyncio.Future[None], suspended: Suspended, longest_s: float) -> None:
    """Wait for `future`, for so long at most. Raises Unprocessed then."""
    timer = asyncio.get_running_loop().call_later(longest_s, _give_up, future)
    try:
        with suspended():
            await future
    finally:
        timer.cancel()


def _give_up(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_exception(Unprocessed())


class LargePayloads:
    """What the large payloads of one unit take. Enter it to have the turn; you must call `release` at the end."""

    def __init__(self, budget: DecodeBudget, handler: Handler, suspended: Suspended) -> None:
        """`suspended` is entered while the unit waits."""
        self._budget = budget
        self._handler = handler
        self._suspended = suspended
        self._longest_wait_s = handler.queue.consumer_timeout_s / 3  # so that there is time to run it, too
        self._growth = expected_growth(handler.decode)
        self._charged_bytes = 0
        self._held_bytes = 0  # of the payloads, with their bodies
        self._is_held = False
        self._thread: asyncio.Future[Any] | None = None

    async def __aenter__(self) -> Self:
        """Wait for the turn. Raises Unprocessed."""
        await self._budget.take_turn(self._handler.queue.name, self._suspended, self._longest_wait_s)
        if not self._is_held:
            self._is_held = True
            self._budget.holders += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Hand the turn on, once a thread that works for it has ended."""
        if self._thread is None or self._thread.done():
            self._budget.leave_turn()
        else:
            self._thread.add_done_callback(lambda _: self._budget.leave_turn())

    async def decoded(self, delivery: Delivery) -> Any:
        """Return the payload of a delivery. Raises DecodeError, OverBudget too, or Unprocessed when it is stale."""
        if delivery.is_stale:
            raise Unprocessed
        decode = self._handler.decode
        raw_properties, body = delivery.raw_properties, delivery.body
        charged_bytes = self._charged_bytes
        # What was expected of the body is in the budget already, and is replaced by what it becomes.
        free_bytes = charged_bytes - reserved_bytes(len(body), self._growth) + len(body)
        content_bytes = 0
        try:
            if raw_properties[0] & ENCODED and decode is not whole_delivery:
                body = await self._decompressed(delivery, free_bytes)
                content_bytes = len(body) if body is not delivery.body else 0
            size = payload_size(decode, raw_properties, body)
            held_bytes = size.held_bytes + (content_bytes if decode is whole_body else 0)
            self._refuse_above_limit(len(delivery.body) + held_bytes)
            await self._charge(free_bytes + content_bytes + size.peak_bytes)
            before_resident_bytes = _resident_bytes() if len(body) > _WORTH_A_LOOK_BYTES else 0
            payload = decode(delivery, body)
            if before_resident_bytes:
                held_bytes = max(held_bytes, _resident_bytes() - before_resident_bytes)
        except BaseException:
            self._set(charged_bytes)
            raise
        self._set(free_bytes + held_bytes)
        self._held_bytes += len(delivery.body) + held_bytes
        return payload

    async def _decompressed(self, delivery: Delivery, free_bytes: int) -> bytes:
        """Return the body as its content-encoding says; for bytes, as it was sent when nobody can undo that here."""
        body = delivery.body
        encoding = delivery.properties.content_encoding or ""
        try:
            if not is_compressed(encoding):
                return decompress(body, encoding)
        except UnknownCoding:
            if self._handler.decode is whole_body:
                return body
            raise
        content = await self._in_thread(partial(measured, body, encoding))
        self._refuse_above_limit(len(body) + content.size_bytes)
        await self._charge(free_bytes + content.size_bytes)
        return await self._in_thread(content.read)

    async def _in_thread(self, function: Callable[[], Value]) -> Value:
        """Call in a thread. Cancelled, it goes on there, and the turn with it: it takes memory until it has ended."""
        self._thread = asyncio.get_running_loop().run_in_executor(None, function)
        value: Value = await asyncio.shield(self._thread)
        return value

    def _refuse_above_limit(self, more_bytes: int) -> None:
        """Raise OverBudget when the budget is too small for what the unit holds and `more_bytes`."""
        limit_bytes = self._budget.budget.limit_bytes
        if self._held_bytes + more_bytes > limit_bytes:
            raise OverBudget(
                f"the message would take about {more_bytes} bytes of memory when it is decoded, above "
                f"--prefetch-budget, {limit_bytes} bytes; raise it to have such messages handled"
            )

    async def _charge(self, peak_bytes: int) -> None:
        """Wait for room until all that the unit has may take so much. Raises Unprocessed."""
        await self._budget.room_for(peak_bytes - self._charged_bytes, self._suspended, self._longest_wait_s)
        self._set(peak_bytes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was decoded yet."""
        return self._held_bytes == 0

    def _set(self, charged_bytes: int) -> None:
        less_bytes, self._charged_bytes = self._charged_bytes - charged_bytes, charged_bytes
        self._budget.budget.give_back(less_bytes)  # below 0 when it becomes more

    def release(self) -> None:
        """Take all off the budget: the payloads are gone."""
        if self._is_held:
            self._is_held = False
            self._budget.holders -= 1
            self._set(0)


def _resident_bytes() -> int:
    """Return the memory of the process; 0 where the kernel does not tell."""
    try:
        return resident_bytes()
    except OSError:
        return 0


def unlimited() -> DecodeBudget:
    """Return room for everything, one at a time."""
    return DecodeBudget(ByteBudget(sys.maxsize))


def forget_locals(error: BaseException) -> None:
    """Let go of what the frames hold that an exception came through: the payload is among it."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        traceback.clear_frames(each.__traceback__)
        left += (each.__cause__, each.__context__)
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
