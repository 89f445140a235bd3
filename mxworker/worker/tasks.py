"""Owning asyncio tasks: every one that is started here is also awaited or cancelled here."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from traceback import FrameSummary, StackSummary
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any

from mxworker.system.printable import foreign

log = logging.getLogger(__name__)

_STEPS = ("async_generator_asend", "async_generator_athrow", "coroutine_wrapper")
_SUSPENDED = (AsyncGeneratorType, CoroutineType)


async def first_of(*duties: Coroutine[Any, Any, object]) -> None:
    """Return when the first of the duties has ended, cancelling the rest; its exception, if any, is raised."""
    tasks = [asyncio.create_task(duty) for duty in duties]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in done:
        task.result()


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks that still run and wait for them. What one failed with is logged, not raised."""
    ending = list(tasks)
    for task in ending:
        task.cancel()
    for outcome in await asyncio.gather(*ending, return_exceptions=True):
        if isinstance(outcome, Exception):
            log.error("a background task failed", exc_info=outcome)


def stack_of(task: asyncio.Task[Any]) -> list[str]:
    """Return where a task is, a frame a line, the innermost last; `Task.get_stack` ends at the outermost coroutine."""
    return [foreign(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}") for frame in _frames(task)]


def frames_of(task: asyncio.Task[Any]) -> list[FrameSummary]:
    """Return where a task is, as `stack_of` does, with the lines of source."""
    return list(StackSummary.extract((frame, frame.f_lineno) for frame in _frames(task)))


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = _first_of(awaited, ("cr_frame", "gi_frame", "ag_frame"))
        if frame is not None:
            yield frame
        awaited = _first_of(awaited, ("cr_await", "gi_yieldfrom", "ag_await")) or _hidden_in(awaited)


def _first_of(awaited: Any, names: Sequence[str]) -> Any:
    return next((found for name in names if (found := getattr(awaited, name, None)) is not None), None)


def _hidden_in(awaited: Any) -> Any:
    """Return what a step of an async generator, or a coroutine's iterator, belongs to; it has no attribute for that."""
    if type(awaited).__name__ not in _STEPS:
        return None
    return next((inner for inner in gc.get_referents(awaited) if isinstance(inner, _SUSPENDED)), None)
