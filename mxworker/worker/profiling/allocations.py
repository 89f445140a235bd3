"""A report of which lines allocate memory that is not freed, by two snapshots of tracemalloc."""

from __future__ import annotations

import linecache
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

from mxworker.system.memory import resident_bytes
from mxworker.system.printable import foreign

FRAMES = 3
"""More frames tell more of who allocates, but cost each allocation of the worker the search for more line numbers: with
1, 3 and 10 frames a delivery took 8, 21 and 74 times as many instructions (`bench.in_process --instructions`)."""
LINES_SHOWN = 25
TRACES_SHOWN = 5

_OUR_FOLDER = f"{Path(__file__).parent}/*"
_LEFT_OUT = (tracemalloc.__file__, linecache.__file__, _OUR_FOLDER)
_MIB = 1024 * 1024
_HEAD = """\
Memory of {title}

tracemalloc saw what was allocated in these {seconds:g} s. The first snapshot was taken after half of the time, so that
what a worker needs to get going is in both. "growth" is what came between the snapshots and was not freed; "kept" is
all that was not freed at the end. A line that leaks grows by as much in each profile.

resident set size: {rss_before:.1f} MiB at the start, {rss_after:.1f} MiB at the end
traced: {before:.1f} MiB at the first snapshot, {after:.1f} MiB at the second
"""


class Stopped(Exception):
    """The profile is not wanted any more."""


def watch(title: str, seconds: float, wait: Callable[[float], None]) -> str:
    """Trace allocations for some seconds, and return the report.

    `wait` waits for so many seconds, and may raise Stopped, which ends the tracing. tracemalloc that the application
    itself has started goes on, with the number of frames that the application chose.
    """
    is_ours = not tracemalloc.is_tracing()
    rss_before = resident_bytes()
    if is_ours:
        tracemalloc.start(FRAMES)
    try:
        wait(seconds / 2)
        first = _snapshot()
        wait(seconds / 2)
        second = _snapshot()
    finally:
        if is_ours:
            tracemalloc.stop()
    facts = {"rss_before": rss_before / _MIB, "rss_after": resident_bytes() / _MIB}
    return _report(title, seconds, first, second, facts)


def _snapshot() -> tracemalloc.Snapshot:
    time.sleep(0)  # let the others run: taking a snapshot keeps the interpreter's lock
    return tracemalloc.take_snapshot()


def _report(
    title: str, seconds: float, first: tracemalloc.Snapshot, second: tracemalloc.Snapshot, facts: dict[str, float]
) -> str:
    filters = [tracemalloc.Filter(inclusive=False, filename_pattern=pattern) for pattern in _LEFT_OUT]
    first, second = first.filter_traces(filters), second.filter_traces(filters)
    by_line = _grown(second.compare_to(first, "lineno"))
    by_trace = _grown(second.compare_to(first, "traceback"))
    before, after = (sum(trace.size for trace in each.traces) / _MIB for each in (first, second))
    parts = [_HEAD.format(title=title, seconds=seconds, before=before, after=after, **facts)]
    parts.append(f"{'growth':>12} {'blocks':>9} {'kept':>12}  line\n")
    parts += [_line(one) for one in by_line[:LINES_SHOWN]] or ["(no line kept more than before)\n"]
    for one in by_trace[:TRACES_SHOWN]:
        parts.append(f"\n{_kib(one.size_diff)} in {one.count_diff:+d} blocks, allocated at (innermost last)\n")
        parts += [f"  {_place(frame)}\n" for frame in one.traceback]
    return "".join(parts)


def _grown(found: Sequence[tracemalloc.StatisticDiff]) -> list[tracemalloc.StatisticDiff]:
    return sorted((one for one in found if one.size_diff > 0), key=lambda one: -one.size_diff)


def _line(one: tracemalloc.StatisticDiff) -> str:
    return f"{_kib(one.size_diff):>12} {one.count_diff:>+9d} {_kib(one.size):>12}  {_place(one.traceback[-1])}\n"


def _place(frame: tracemalloc.Frame) -> str:
    source = linecache.getline(frame.filename, frame.lineno).strip()
    return f"{foreign(frame.filename)}:{frame.lineno}{f': {foreign(source)}' if source else ''}"


def _kib(size: int) -> str:
    return f"{size / 1024:,.1f} KiB"
