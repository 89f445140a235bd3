"""The bound on the memory of a process's payloads: large bodies are decoded one at a time, when there is room.

    wait for the turn -> compressed? measure it, wait for room, decompress -> wait for room, decode -> payload
                                                                                 (held until the handler has ended)

Room is the rest of the byte budget. A unit is a delivery or a batch. A unit without room waits until others have ended,
or until no other unit holds a large payload; then it is decoded alone. A payload that could not be held even then is
refused. A batch takes the payloads that fit, and leaves the rest for the next batch. A unit that holds a payload does
not wait for the turn, and only the unit with the turn waits for room, so no unit waits for itself.

The wait does not count as time of the handler. It also ends when waiting deliveries are given back: at a drain or a
pause, and after a third of the broker's consumer timeout.

Small bodies are not counted and do not wait.
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

_WORTH_A_LOOK_BYTES = 1024 * 1024  # of a body, from which the memory of the process is measured, too; that is not exact

Suspended = Callable[[], AbstractContextManager[object]]
Value = TypeVar("Value")


class Unprocessed(Exception):
    """The deliveries of a unit did not reach their handler, and are to be given back."""


class OverBudget(DecodeError):
    """The payload does not fit into the budget beside those of the same unit."""


class DecodeBudget:
    """The turn to decode a large body, and the room for it. Belongs to one event loop, and so do its callers."""

    def __init__(self, budget: ByteBudget) -> None:
        """Share `budget` with the deliveries that are not decoded yet."""
        self.budget = budget
        self.holders = 0
        """The number of units that hold large payloads, or are about to."""
        self._is_taken = False
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()  # at most one for each unit that runs

    async def take_turn(self, queue: str, suspended: Suspended, longest_s: float) -> None:
        """Wait for the turn, first come, first served. `leave_turn` hands it on. Raises Unprocessed."""
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
        """Hand the turn on to the unit that has waited longest."""
        while self._waiting:
            _, turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False

    async def room_for(self, more_bytes: int, suspended: Suspended, longest_s: float) -> None:
        """Wait until there is room, or no other unit holds a large payload. Raises Unprocessed."""
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
        """Give back the units of a queue that wait for their turn."""
        for each, turn in self._waiting:
            if each == queue and not turn.done():
                turn.set_exception(Unprocessed())


async def _until(future: asyncio.Future[None], suspended: Suspended, longest_s: float) -> None:
    """Wait for `future`. Raises Unprocessed after `longest_s` seconds."""
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
    """The memory of one unit's large payloads. Enter it to have the turn. You must call `release` at the end."""

    def __init__(self, budget: DecodeBudget, handler: Handler, suspended: Suspended) -> None:
        """`suspended` is entered while the unit waits."""
        self._budget = budget
        self._handler = handler
        self._suspended = suspended
        self._longest_wait_s = handler.queue.consumer_timeout_s / 3  # the rest of the time is for running the unit
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
        """Hand the turn on when the thread that works for the unit has ended."""
        if self._thread is None or self._thread.done():
            self._budget.leave_turn()
        else:
            self._thread.add_done_callback(lambda _: self._budget.leave_turn())

    async def decoded(self, delivery: Delivery) -> Any:
        """Return the payload of a delivery. Raises DecodeError, OverBudget, or Unprocessed when it is stale."""
        if delivery.is_stale:
            raise Unprocessed
        decode = self._handler.decode
        raw_properties, body = delivery.raw_properties, delivery.body
        charged_bytes = self._charged_bytes
        # The budget already has the expected size of the payload, which the estimate of its real size replaces.
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
        """Return the decompressed body. A handler of bytes gets a body in an unknown coding as it was sent."""
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
        """Call in a thread. A cancelled call goes on and keeps the turn, since it takes memory until it has ended."""
        self._thread = asyncio.get_running_loop().run_in_executor(None, function)
        value: Value = await asyncio.shield(self._thread)
        return value

    def _refuse_above_limit(self, more_bytes: int) -> None:
        """Raise OverBudget when the budget is too small for the unit's payloads and `more_bytes`."""
        limit_bytes = self._budget.budget.limit_bytes
        if self._held_bytes + more_bytes > limit_bytes:
            raise OverBudget(
                f"the message would take about {more_bytes} bytes of memory when it is decoded, above "
                f"--prefetch-budget, {limit_bytes} bytes; raise it to have such messages handled"
            )

    async def _charge(self, peak_bytes: int) -> None:
        """Wait until there is room for `peak_bytes` of the unit in all. Raises Unprocessed."""
        await self._budget.room_for(peak_bytes - self._charged_bytes, self._suspended, self._longest_wait_s)
        self._set(peak_bytes)

    @property
    def is_empty(self) -> bool:
        """Whether no payload was decoded yet."""
        return self._held_bytes == 0

    def _set(self, charged_bytes: int) -> None:
        less_bytes, self._charged_bytes = self._charged_bytes - charged_bytes, charged_bytes
        self._budget.budget.give_back(less_bytes)  # below 0 when the charge grows

    def release(self) -> None:
        """Return all bytes to the budget. Call when the payloads are gone."""
        if self._is_held:
            self._is_held = False
            self._budget.holders -= 1
            self._set(0)


def _resident_bytes() -> int:
    """Return the memory of the process; 0 where the kernel does not provide it."""
    try:
        return resident_bytes()
    except OSError:
        return 0


def unlimited() -> DecodeBudget:
    """Return a budget with room for every body, one at a time."""
    return DecodeBudget(ByteBudget(sys.maxsize))


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of the frames in an exception's tracebacks, since they hold the payload."""
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
