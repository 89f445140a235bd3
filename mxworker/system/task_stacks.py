"""Where an asyncio task waits: all frames of it, also those that `Task.get_stack` does not know."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from traceback import FrameSummary, StackSummary
from types import AsyncGeneratorType, CoroutineType, FrameType
from typing import Any

from mxworker.system.printable import foreign

_STEPS = ("async_generator_asend", "async_generator_athrow", "coroutine_wrapper")
_SUSPENDED = (AsyncGeneratorType, CoroutineType)


def task_stack(task: asyncio.Task[Any]) -> list[str]:
    """Return where a task is, a frame a line, the innermost last; `Task.get_stack` ends at the outermost coroutine."""
    return [foreign(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}") for frame in _frames(task)]


def task_frames(task: asyncio.Task[Any]) -> list[FrameSummary]:
    """Return where a task is, as `task_stack` does, with the lines of source."""
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
