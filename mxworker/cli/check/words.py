"""How a handler and a queue read in a report. Pure."""

from __future__ import annotations

from typing import Any

from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.queues import AT_LEAST_ONCE, KEEPS_RETURNED
from mxworker.api.topology import Declaration
from mxworker.config.units import format_duration
from mxworker.payloads.annotations import shown
from mxworker.system.printable import foreign

KINDS = {
    HandlerKind.ASYNC: "async def",
    HandlerKind.THREAD: "def, in a thread",
    HandlerKind.PROCESS: "def, in a process (cpu=True)",
}


def payload_of(handler: Handler) -> str:
    """Return the annotation of the payload."""
    payload = foreign(shown(handler.payload))
    return payload if handler.batch is None else f"list[{payload}]"


def failure_of(handler: Handler) -> str:
    """Return what becomes of a message whose handler fails."""
    dead = f"goes to {handler.queue.dead_letter_name}" if handler.queue.dead_letter else "is rejected"
    match handler.on_error:
        case "ack":
            return "a failure is acked, and the message dropped"
        case "reject":
            return f"a failed message {dead}"
        case "requeue":
            return f"a failed message is delivered again at once, {_times(handler.max_attempts - 1)}, then it {dead}"
        case "retry" if handler.retry is None or handler.retry.max_retries == 0:
            return f"no retries; a failed message {dead}"
        case "retry":
            delays = ", ".join(format_duration(delay_s) for delay_s in handler.retry.delays)
            return f"retried {_times(handler.retry.max_retries)} after {delays}; then the message {dead}"


def arguments_in_words(wanted: Declaration) -> str:
    """Return the type of a queue, and its arguments: those that mxworker gives to all queues in words or not at all."""
    left = dict(wanted.arguments)
    parts = [str(left.pop("x-queue-type"))]
    ttl_ms = left.pop("x-message-ttl", None) if wanted.role == "retry" else None
    if ttl_ms is not None:
        parts.append(f"held for {format_duration(ttl_ms / 1000)}")
    exchange, key = left.pop("x-dead-letter-exchange", None), left.pop("x-dead-letter-routing-key", None)
    if exchange is not None:
        target = key if exchange == "" else f"exchange {exchange}" + ("" if key is None else f" as {key}")
        safely = all(left.get(name) == value for name, value in AT_LEAST_ONCE.items())
        verb = "then to" if wanted.role == "retry" else "dead letters to"
        parts.append(f"{verb} {foreign(target)}" + (", at least once" if safely else ""))
    ours = {**AT_LEAST_ONCE, **KEEPS_RETURNED}
    parts += [f"{name}={_value(value)}" for name, value in left.items() if ours.get(name) != value]
    return ", ".join(parts)


def _value(value: Any) -> str:
    return f"'{foreign(value)}'" if isinstance(value, str) else foreign(value)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"
