"""Tracebacks as an application's author wants them: with the frames of the application.

Those of mxworker, of asyncio and of concurrent.futures are around every handler and tell nothing of it. Where no other
frame is left, the fault is not the application's, and all are kept.

Pure.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from traceback import StackSummary, TracebackException

from mxworker.system.foreign_errors import traceback_of
from mxworker.system.stacks import OUR_FOLDER

_MACHINERY = (OUR_FOLDER, *(f"{Path(str(package.__file__)).parent}/" for package in (asyncio, concurrent.futures)))


def trace_of(error: BaseException) -> str:
    """Return the traceback of `error` and of what led to it, "" when it was not raised; never raises.

    Takes about a millisecond, for it reads the lines of source, so ask for what is shown alone.
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
    except BaseException as fault:  # an exception may have properties of its own, which raise
        return f"(its traceback cannot be shown: {type(fault).__name__})"


def _parts(told: TracebackException) -> Iterator[TracebackException]:
    """Yield an exception, its causes, and those that it holds as a group."""
    yield told
    for inner in (told.__cause__, told.__context__, *(told.exceptions or ())):
        if inner is not None:
            yield from _parts(inner)


def _of_application(stack: StackSummary) -> StackSummary:
    return StackSummary.from_list([frame for frame in stack if not frame.filename.startswith(_MACHINERY)])
