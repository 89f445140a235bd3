"""Tracebacks that show only the frames of the application.

Frames of mxworker, asyncio, uvloop and concurrent.futures are around every handler and say nothing about it. When a
traceback has no other frames, the fault is not the application's, and all frames are kept.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from traceback import StackSummary, TracebackException

from mxworker.system.foreign_errors import traceback_of
from mxworker.system.stacks import COMPILED_LOOP, OUR_FOLDER

_MACHINERY = (
    OUR_FOLDER,
    COMPILED_LOOP,
    *(f"{Path(str(package.__file__)).parent}/" for package in (asyncio, concurrent.futures)),
)


def trace_of(error: BaseException) -> str:
    """Return the traceback of `error` and of its causes, "" when `error` was not raised; never raises.

    Reading the source lines takes about a millisecond, so ask only for tracebacks that are shown.
    """
    traceback = traceback_of(error)
    if traceback is None:
        return ""
    try:
        told = TracebackException(type(error), error, traceback)
        parts = list(_parts(told))
        if any(_of_application(part.stack) for part in parts):
            for part in parts:
                part.stack = _of_application(part.stack)
        return "".join(told.format()).rstrip("\n")
    except BaseException as fault:  # an exception may have properties that raise
        return f"(its traceback cannot be shown: {type(fault).__name__})"


def _parts(told: TracebackException) -> Iterator[TracebackException]:
    """Yield an exception, its causes, and the exceptions of a group."""
    yield told
    for inner in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if inner is not None:
            yield from _parts(inner)


def _of_application(stack: StackSummary) -> StackSummary:
    return StackSummary.from_list([frame for frame in stack if not frame.filename.startswith(_MACHINERY)])
