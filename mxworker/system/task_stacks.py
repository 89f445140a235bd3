"""Where an asyncio task waits: all its frames, with those that `Task.get_stack` does not return."""

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
    """Return one line for each frame of a task, the innermost last; `Task.get_stack` returns only the outermost."""
    return [foreign(f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}") for frame in _frames(task)]


def task_frames(task: asyncio.Task[Any]) -> list[FrameSummary]:
    """Return the frames of a task with their source lines, in the order of `task_stack`."""
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
    """Return the generator or coroutine behind a step of it, which has no attribute for that."""
    if type(awaited).__name__ not in _STEPS:
        return None
    return next((inner for inner in gc.get_referents(awaited) if isinstance(inner, _SUSPENDED)), None)
