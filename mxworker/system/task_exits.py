"""Run an event loop to the end of its main task, although other tasks raise SystemExit or KeyboardInterrupt.

asyncio stores these two in the task as it does every exception, but then also raises them out of the running loop, and
so does uvloop: `sys.exit()` in one task of a handler would end the process with all that runs in it. A task that
somebody awaits tells its failure there, so the loop has only to run again.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

from mxworker.system.foreign_errors import error_in_words, traceback_of
from mxworker.system.log import LineBudget, say_safely
from mxworker.system.log_events import log_event
from mxworker.system.stacks import Place, innermost
from mxworker.system.tracebacks import trace_of

log = logging.getLogger("mxworker.worker")

T = TypeVar("T")


def run_to_end(
    loop: asyncio.AbstractEventLoop,
    main: asyncio.Task[T],
    is_over: Callable[[], bool],
    before_again: Callable[[], None],
) -> T:
    """Run `loop` until `main` is done, and return its result. An exit of any other task is logged, and ends only that.

    When `is_over` is true, as in a forked child, the exit is raised instead. `before_again` is called when the loop has
    stopped and is to run again.
    """
    budget = LineBudget()
    while not main.done():
        try:
            loop.run_until_complete(main)
        except (SystemExit, KeyboardInterrupt) as error:
            if is_over():
                raise
            _tell(error, budget)
            before_again()
            # uvloop learns from a pipe that a signal came, and has no pipe between two runs: it sees a signal of that
            # time together with the next one. The next one is SIGURG, at which our processes look for what is new.
            loop.call_soon(signal.raise_signal, signal.SIGURG)
    return main.result()


def _tell(error: BaseException, budget: LineBudget) -> None:
    more = budget.spend(time.monotonic())
    if more is None:
        return
    frames = traceback.walk_tb(traceback_of(error))
    place = innermost([Place(frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in frames])
    say_safely(
        log,
        logging.ERROR,
        "a task or callback of the application raised %s at %s; this ends the task, and not the process%s",
        error_in_words(error),
        place,
        more,
        error=error,
        trace=trace_of(error),
        fields=log_event("task_exit", place=str(place), error=error_in_words(error)),
    )
