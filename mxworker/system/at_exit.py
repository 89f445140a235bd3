"""What the interpreter does at its end and `os._exit` does not, for processes that have to be gone by a deadline.

In the order of Python's own end: the threads of executors finish what they were given, callbacks of `atexit` and
`weakref.finalize` run, files are flushed. Other threads are not waited for, whether they are daemons or not: an
application may leave some that never end, and stops those that it cares for in its lifespan.
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
from mxworker.system.printable import foreign

log = logging.getLogger("mxworker.worker")

_THREADS_S = 5.0  # for the threads of executors: one that never ends must not cost the callbacks after it
_SHOWN_FRAMES = 3


def forget_inherited() -> None:
    """Drop, in a forked child, the callbacks that its parent has registered: they are for the parent's end."""
    atexit._clear()
    for finalizer in list(vars(weakref.finalize)["_registry"]):
        finalizer.atexit = False
    weakref.finalize._registered_with_atexit = False  # type: ignore[attr-defined]  # its callback is dropped, too


def finish(code: int, deadline: float | None, *, waits_for_executors: bool = True) -> None:
    """Do all that is due at the end of the process; call it last, in the main thread.

    When it is not done at the `deadline`, of the monotonic clock, that is logged and the process exits with `code` from
    a thread. With None somebody else sees to it.
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
        "what the application does at its end was not done in time, and is cut off: %s",
        " < ".join(places[: -_SHOWN_FRAMES - 1 : -1]),
    )
    try:
        _kill_children()
        flush()
    finally:
        os._exit(code)


def _kill_children() -> None:
    """Kill what `multiprocessing` has started and still waits for. What it has not forked would not die with us."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            child.kill()


def _end_executors(within_s: float) -> None:
    """Let executors, those of processes too, finish what they were given."""
    ending = threading.Thread(target=_run_threading_callbacks, name="mxworker-executors", daemon=True)
    ending.start()
    ending.join(max(0.0, within_s))
    if ending.is_alive():
        log.warning("an executor has not finished within %.1f s at the end, and is left as it is", within_s)


def _run_threading_callbacks() -> None:
    for callback in reversed(vars(threading)["_threading_atexits"]):
        try:
            callback()
        except Exception:
            log.exception("an executor failed at the end")


def _flush_files() -> None:
    """Flush what is open, outer layers first: what they flush goes into the inner ones."""
    gc.unfreeze()
    # Of all objects, so it asks for the class that every file inherits from, and not for io.IOBase, which is abstract:
    # that takes 3 ms instead of 18 for the 43,000 objects of a small application, and there may be little time left.
    files = [file for file in gc.get_objects() if issubclass(type(file), _io._IOBase)]
    for file in (*_of_kind(files, io.TextIOBase), *_of_kind(files, io.BufferedIOBase)):
        with suppress(Exception):  # it is closed, not writable, or its reader has gone
            if type(file).__module__ == "_io":
                file.flush()
            else:
                file.close()  # a compressed file has an end to write


def _of_kind(files: list[io.IOBase], kind: type[io.IOBase]) -> Iterator[io.IOBase]:
    found = [file for file in files if issubclass(type(file), kind)]
    yield from sorted(found, key=lambda file: type(file).__module__ == "_io")
