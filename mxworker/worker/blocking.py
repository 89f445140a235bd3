"""What blocks the event loop, by the stack of its thread and the task that runs: a handler, or something else.

The functions are called from another thread or from a signal handler, so they only read.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

from mxworker.api import decoder
from mxworker.api.compilation import HandlerKind
from mxworker.system import forks
from mxworker.system.printable import foreign
from mxworker.system.stacks import Part, frames_of, innermost, part_of, places_of
from mxworker.worker import lifespans
from mxworker.worker.handling.handler_runner import AtWork, HandlerRunner

_IN_THREAD = "call what blocks by asyncio.to_thread, or something that can be awaited instead"
_PLAIN_DEF = "use a plain 'def', which runs in a thread, or cpu=True, which runs in a process of its own"
_DECODE_ELSEWHERE = "send smaller bodies, or take bytes and decode them in a plain 'def'"
_MOST_LAYERS = 100  # of wrappers, since one may wrap itself
_DECODING_FILES = frozenset({decoder.__file__})
_LOOP_FILES = frozenset(module.__file__ for module in (forks, asyncio.base_events, asyncio.events, asyncio.runners))
_LIFESPAN_FILES = frozenset({lifespans.__file__})


@dataclass(frozen=True, slots=True)
class Blocker:
    """What blocks, in words, and `where`: ` at app.py:12 in f: time.sleep(5)`. `fields` are for the log record."""

    what: str
    where: str
    advice: str
    fields: Mapping[str, object] = field(default_factory=dict)


def blocker_of(
    frame: FrameType | None, loop: asyncio.AbstractEventLoop | None, runners: Sequence[HandlerRunner]
) -> Blocker:
    """Return what the thread of `loop` does; `frame` is its innermost frame."""
    frames = frames_of(frame)
    task = _current_task(loop)
    place = innermost(places_of(frames))
    at_work = next(((runner, one) for runner in runners if (one := runner.at_work_in(task)) is not None), None)
    where, fields = "", dict[str, object]()
    if place is not None:
        source = place.source  # this reads a file, during which the thread may go on
        named = foreign(place.filename)
        where = f" at {named}:{place.line} in {foreign(place.function)}{f': {source}' if source else ''}"
        fields["place"] = f"{named}:{place.line}"
    if at_work is None:
        return Blocker(*_elsewhere(task, frames, where), fields)
    runner, one = at_work
    what, advice = _in_handler(runner, frames)
    return Blocker(what + _message_of(one), where, advice, fields | _fields_of(runner, one))


def handlers_in_threads(runners: Sequence[HandlerRunner]) -> list[str]:
    """Return the names of the `def` handlers that run."""
    return [runner.handler.name for runner in runners if runner.handler.kind is HandlerKind.THREAD and runner.running]


def _in_handler(runner: HandlerRunner, frames: Sequence[FrameType]) -> tuple[str, str]:
    """Return which step of a delivery blocks, and what to do about it."""
    handler = runner.handler
    name = f"handler {handler.name}"
    codes = {frame.f_code for frame in frames}
    if handler.kind is HandlerKind.ASYNC and not _codes_of(handler.function).isdisjoint(codes):
        return name, _PLAIN_DEF
    for middleware in handler.middleware:
        if not _codes_of(middleware).isdisjoint(codes):
            return f"middleware {getattr(middleware, '__name__', middleware)!s:.80} of {name}", _IN_THREAD
    if any(frame.f_code.co_filename in _DECODING_FILES for frame in frames):
        return f"the decoding of a body for {name}", _DECODE_ELSEWHERE
    if any(part_of(frame.f_code.co_filename) is not Part.MACHINERY for frame in frames):
        return name, _PLAIN_DEF
    return f"the worker's own work on {name}", "please report this"


def _elsewhere(task: asyncio.Task[Any] | None, frames: Sequence[FrameType], where: str) -> tuple[str, str, str]:
    if task is None and frames and frames[-1].f_code.co_filename in _LOOP_FILES:
        return "a callback that is not written in Python", "", _IN_THREAD
    if any(frame.f_code.co_filename in _LIFESPAN_FILES for frame in frames):
        return "a lifespan", where, _IN_THREAD
    if all(part_of(frame.f_code.co_filename) is Part.MACHINERY for frame in frames):
        return "the worker's own work", where, "please report this"
    if task is None:
        return "a callback", where, _IN_THREAD
    return f"task {task.get_name()} of the application", where, _IN_THREAD


def _codes_of(function: Any) -> set[CodeType]:
    """Return the code objects of a function and of the functions that it wraps."""
    codes: set[CodeType] = set()
    for _ in range(_MOST_LAYERS):
        if function is None:
            break
        if isinstance(function, functools.partial):
            function = function.func
            continue
        plain = function if inspect.isroutine(function) else getattr(type(function), "__call__", None)  # noqa: B004
        code = getattr(plain, "__code__", None)
        if isinstance(code, CodeType):
            codes.add(code)
        function = getattr(function, "__wrapped__", None)
    return codes


def _message_of(one: AtWork) -> str:
    first = one.deliveries[0]
    others = f" and {len(one.deliveries) - 1} more" if len(one.deliveries) > 1 else ""
    return f" (message {first.shown_id or 'without an id'}{others})"


def _fields_of(runner: HandlerRunner, one: AtWork) -> dict[str, object]:
    return {
        "handler": runner.handler.name,
        "queue": runner.handler.queue.name,
        "message_id": one.deliveries[0].shown_id,
        "delivery_tag": one.deliveries[0].delivery_tag,
    }


def _current_task(loop: asyncio.AbstractEventLoop | None) -> asyncio.Task[Any] | None:
    with suppress(RuntimeError):  # before the loop runs, and after
        return asyncio.current_task(loop)
    return None
