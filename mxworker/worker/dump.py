"""A dump: what a worker process runs now, told to the log.

Made inside a signal handler, which Python calls between two bytecodes of whatever runs, of a loop that never turns
again, too. So it only looks: it takes no lock of ours, and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from types import FrameType
from typing import Any

from mxworker.worker.station import SHOWN_FRAMES, AtWork, Station

log = logging.getLogger(__name__)

HANDLERS_SHOWN = 50


def dump(number: int, stations: Sequence[Station], frame: FrameType | None) -> None:
    """Log each handler that runs, at most 50, with its message, its age and where it is; then where the process is.

    A `def` handler is where its thread is. `frame` is what the signal interrupted.
    """
    running = sum(station.running for station in stations)
    waiting = sum(station.waiting for station in stations)
    log.warning("worker %d: handlers that run: %d; deliveries that wait for one: %d", number, running, waiting)
    current = _current_task()
    at_work = ((station, one) for station in stations for one in station.at_work())
    for station, one in islice(at_work, HANDLERS_SHOWN):
        _tell(number, station, one, "is inside" if one.task is current else "runs")
    if running > HANDLERS_SHOWN:
        log.warning("worker %d runs %d more", number, running - HANDLERS_SHOWN)
    dump_stack(number, frame)


def dump_stack(number: int, frame: FrameType | None) -> None:
    """Log where the main thread is, which is `frame`."""
    stack = traceback.extract_stack(frame)
    log.warning("worker %d is at %s", number, _shown([f"{at.filename}:{at.lineno} {at.name}" for at in stack]))


def _tell(number: int, station: Station, one: AtWork, how: str) -> None:
    first = one.deliveries[0]
    others = f" and {len(one.deliveries) - 1} more" if len(one.deliveries) > 1 else ""
    log.warning(
        "worker %d %s handler %s with message %s%s (delivery tag %d) of queue %s, for %.1f s; it is at %s",
        number,
        how,
        station.handler.name,
        first.message_id or "(no id)",
        others,
        first.delivery_tag,
        station.handler.queue.name,
        one.age_s,
        _shown(one.stack),
    )


def _current_task() -> asyncio.Task[Any] | None:
    with suppress(RuntimeError):  # before the loop runs, and after
        return asyncio.current_task()
    return None


def _shown(stack: Sequence[str]) -> str:
    return " > ".join(stack[-SHOWN_FRAMES:])
