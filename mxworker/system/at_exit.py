"""The exit steps of the interpreter that `os._exit` skips, for processes that must end by a deadline.

The steps run in Python's own order: executor threads finish their work, callbacks of `atexit` and `weakref.finalize`
run, and files are flushed. No other thread is waited for, daemon or not: an application may leave threads that never
end, and can stop the others in its lifespan.
"""

from __future__ import annotations

import _io
import atexit
import gc
import io
import logging
import os
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator
from contextlib import suppress

from mxworker.system.child import flush
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign

log = logging.getLogger("mxworker.worker")

_THREADS_S = 5.0  # for executor threads: a thread that never ends must not keep the callbacks from running
_SHOWN_FRAMES = 3


def forget_inherited() -> None:
    """Drop the inherited exit callbacks in a forked child: they belong to the exit of its parent."""
    atexit._clear()
    for finalizer in list(vars(weakref.finalize)["_registry"]):
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # atexit has dropped its callback


def finish(code: int, deadline: float | None, *, waits_for_executors: bool = True) -> None:
    """Run the exit steps of the process. Call this last, in the main thread.

    If they have not finished at `deadline` (monotonic seconds), a thread logs that and exits the process with `code`.
    With None, the caller must bound the time.
    """
    is_done = threading.Event()
    if deadline is not None:
        watch = threading.Thread(target=_leave_at, args=(deadline, code, is_done), name="mxworker-exit", daemon=True)
        watch.start()
    if waits_for_executors:
        _end_executors(_THREADS_S if deadline is None else min(_THREADS_S, deadline - time.monotonic()))
    atexit._run_exitfuncs()
    _flush_files()
    is_done.set()


def _leave_at(deadline: float, code: int, is_done: threading.Event) -> None:
    if is_done.wait(max(0.0, deadline - time.monotonic())):
        return
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    places = [foreign(f"{at.filename}:{at.lineno} {at.name}") for at in traceback.extract_stack(frame)]
    log.error(
        "the exit callbacks of the application were not done in time, and are cut off at: %s",
        " < ".join(places[: -_SHOWN_FRAMES - 1 : -1]),
        extra=log_event("exit_callbacks_cut", place=places[-1]),
    )
    try:
        _kill_children()
        flush()
    finally:
        os._exit(code)


def _kill_children() -> None:
    """Kill the children of `multiprocessing`: those that it spawned instead of forking would outlive this process."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            child.kill()


def _end_executors(within_s: float) -> None:
    """Let the thread and process executors finish their work."""
    ending = threading.Thread(target=_run_threading_callbacks, name="mxworker-executors", daemon=True)
    ending.start()
    ending.join(max(0.0, within_s))
    if ending.is_alive():
        log.warning(
            "an executor has not finished within %.1f s at exit, and is abandoned",
            within_s,
            extra=log_event("executor_abandoned"),
        )


def _run_threading_callbacks() -> None:
    for callback in reversed(vars(threading)["_threading_atexits"]):
        try:
            callback()
        except Exception:
            log.exception("an executor failed at exit", extra=log_event("executor_failed"))


def _flush_files() -> None:
    """Flush the open files, outer layers first, because an outer layer flushes into the inner one."""
    gc.unfreeze()
    # The scan tests each object for the class that every file inherits from instead of the abstract io.IOBase. That
    # takes 3 ms instead of 18 for the 43,000 objects of a small application, and little time may be left.
    files = [file for file in gc.get_objects() if issubclass(type(file), _io._IOBase)]
    for file in (*_of_kind(files, io.TextIOBase), *_of_kind(files, io.BufferedIOBase)):
        with suppress(Exception):  # the file is closed or not writable, or its reader has gone
            if type(file).__module__ == "_io":
                file.flush()
            else:
                file.close()  # a compressed file has to write its end


def _of_kind(files: list[io.IOBase], kind: type[io.IOBase]) -> Iterator[io.IOBase]:
    found = [file for file in files if issubclass(type(file), kind)]
    yield from sorted(found, key=lambda file: type(file).__module__ == "_io")
