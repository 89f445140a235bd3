"""A dump: what a worker process runs now, written to the log.

It is made inside a signal handler, which Python calls between two bytecodes of whatever runs, even in a blocked event
loop. So it only reads: it takes no lock of ours, and changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from types import FrameType
from typing import Any

from mxworker.config.units import format_duration
from mxworker.system.log_events import log_event
from mxworker.system.stacks import frames_of, places_of, telling
from mxworker.worker.blocking import blocker_of
from mxworker.worker.handling.handler_runner import SHOWN_FRAMES, AtWork, HandlerRunner

log = logging.getLogger(__name__)

HANDLERS_SHOWN = 50


def dump(number: int, runners: Sequence[HandlerRunner], frame: FrameType | None) -> None:
    """Log each handler that runs, at most 50, with its message, its age and where it is; then where the process is.

    A `def` handler is where its thread is. `frame` is what the signal interrupted.
    """
    running = sum(runner.running for runner in runners)
    waiting = sum(runner.waiting for runner in runners)
    facts = log_event("dump", worker=number, running=running, waiting=waiting)
    text = "worker %d: handlers that run: %d; deliveries that wait for one: %d"
    log.warning(text, number, running, waiting, extra=facts)
    current = _current_task()
    stack = _telling_stack(frame)
    at_work = ((runner, one) for runner in runners for one in runner.at_work())
    for runner, one in islice(at_work, HANDLERS_SHOWN):
        is_inside = one.task is current
        _tell(number, runner, one, "is inside" if is_inside else "runs", stack if is_inside else one.stack)
    if running > HANDLERS_SHOWN:
        facts = log_event("dump_more", worker=number, running=running - HANDLERS_SHOWN)
        log.warning("worker %d runs %d more", number, running - HANDLERS_SHOWN, extra=facts)
    dump_stack(number, frame)


def tell_blocked(number: int, runners: Sequence[HandlerRunner], frame: FrameType | None, timeout_s: float) -> None:
    """Log what has blocked the event loop for longer than `timeout_s`; `frame` is what the signal interrupted."""
    blocker = blocker_of(frame, _running_loop(), runners)
    log.warning(
        "worker %d: %s has blocked the event loop for longer than --heartbeat-timeout (%s)%s; the process is ended; %s",
        number,
        blocker.what,
        format_duration(timeout_s),
        blocker.where,
        blocker.advice,
        extra=log_event("worker_hung", **blocker.fields) | {"worker": number},
    )


def dump_stack(number: int, frame: FrameType | None) -> None:
    """Log where the main thread is; `frame` is its innermost frame."""
    shown = _shown(_telling_stack(frame))
    log.warning("worker %d is at %s", number, shown, extra=log_event("dump_stack", worker=number, stack=shown))


def _telling_stack(frame: FrameType | None) -> list[str]:
    return [str(place) for place in telling(places_of(frames_of(frame)))]


def _tell(number: int, runner: HandlerRunner, one: AtWork, how: str, stack: Sequence[str]) -> None:
    first = one.deliveries[0]
    others = f" and {len(one.deliveries) - 1} more" if len(one.deliveries) > 1 else ""
    log.warning(
        "worker %d %s handler %s with message %s%s (delivery tag %d) of queue %s, for %.1f s; it is at %s",
        number,
        how,
        runner.handler.name,
        first.shown_id or "(no id)",
        others,
        first.delivery_tag,
        runner.handler.queue.name,
        one.age_s,
        _shown(stack),
        extra=log_event(
            "dump_handler",
            worker=number,
            handler=runner.handler.name,
            queue=runner.handler.queue.name,
            message_id=first.shown_id,
            delivery_tag=first.delivery_tag,
            age_s=round(one.age_s, 3),
            stack=_shown(stack),
        ),
    )


def _current_task() -> asyncio.Task[Any] | None:
    with suppress(RuntimeError):  # before the loop runs, and after
        return asyncio.current_task()
    return None


def _running_loop() -> asyncio.AbstractEventLoop | None:
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None


def _shown(stack: Sequence[str]) -> str:
    return " > ".join(stack[-SHOWN_FRAMES:])
