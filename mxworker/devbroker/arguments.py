"""The arguments of queues: which values they take, and when a second declaration means the same queue.

Pure. The texts are those of RabbitMQ (rabbit_amqqueue and rabbit_misc), because people search for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mxworker.devbroker.faults import Fault, precondition_failed
from mxworker.devbroker.message import MAX_TTL_MS
from mxworker.devbroker.type_names import type_name

DROP_HEAD, REJECT, REJECT_AND_DEAD_LETTER = "drop-head", "reject-publish", "reject-publish-dlx"
CLASSIC, QUORUM = "classic", "quorum"
MAX_PRIORITY = 255
_DLX, _DLX_KEY = "x-dead-letter-exchange", "x-dead-letter-routing-key"
_OF_CLASSIC_ONLY = ("x-max-priority", "x-queue-mode", "x-queue-version")
_OF_QUORUM_ONLY = ("x-delivery-limit", "x-dead-letter-strategy", "x-quorum-initial-group-size")
_OF_STREAM_ONLY = ("x-max-age", "x-stream-max-segment-size-bytes", "x-initial-cluster-size")


@dataclass(frozen=True)
class QueueSettings:
    """What the arguments of a queue come to. None is no limit."""

    kind: str = CLASSIC
    ttl_ms: int | None = None
    expires_ms: int | None = None
    max_length: int | None = None
    max_bytes: int | None = None
    overflow: str = DROP_HEAD
    dead_letter_exchange: str | None = None
    dead_letter_key: str | None = None
    max_priority: int | None = None
    single_active: bool = False
    delivery_limit: int | None = None


def queue_settings(where: str, arguments: Mapping[str, Any], default_delivery_limit: int | None) -> QueueSettings:
    """Return what `arguments` ask for; Fault names the wrong one. `where` is `queue 'x' in vhost '/'`."""
    assert_exchange_name(where, _DLX, arguments)
    for name, check in _CHECKS.items():
        if name in arguments and (error := check(arguments[name], arguments)):
            raise precondition_failed(f"invalid arg '{name}' for {where}: {error}")
    kind = arguments.get("x-queue-type", CLASSIC)
    _refuse_of_other_kind(where, kind, arguments)
    limit: Any = arguments.get("x-delivery-limit", default_delivery_limit) if kind == QUORUM else None
    has_limit = _is_integer(limit) and limit >= 0
    return QueueSettings(
        kind=kind,
        ttl_ms=arguments.get("x-message-ttl"),
        expires_ms=arguments.get("x-expires"),
        max_length=arguments.get("x-max-length"),
        max_bytes=arguments.get("x-max-length-bytes"),
        overflow=_overflow(kind, arguments.get("x-overflow", DROP_HEAD)),
        dead_letter_exchange=arguments.get(_DLX),
        dead_letter_key=arguments.get(_DLX_KEY),
        max_priority=arguments.get("x-max-priority"),
        single_active=bool(arguments.get("x-single-active-consumer")),
        delivery_limit=limit if has_limit else None,
    )


def assert_exchange_name(where: str, name: str, arguments: Mapping[str, Any]) -> None:
    """Raise Fault when the argument `name`, which names an exchange, is no text."""
    if name in arguments and not isinstance(arguments[name], str):
        raise precondition_failed(f"invalid type '{type_name(arguments[name])}' for arg '{name}' in {where}")


def assert_consumer_arguments(where: str, arguments: Mapping[str, Any]) -> None:
    """Raise Fault when the priority of a consumer is no integer."""
    if "x-priority" in arguments and not _is_integer(arguments["x-priority"]):
        raise precondition_failed(f"invalid arg 'x-priority' for {where}: {_no_integer(arguments['x-priority'])}")


def _overflow(kind: str, asked: str) -> str:
    """Return what happens to a full queue; a quorum queue takes the last behaviour for the first, with a warning."""
    return DROP_HEAD if kind == QUORUM and asked == REJECT_AND_DEAD_LETTER else asked


def _refuse_of_other_kind(where: str, kind: str, arguments: Mapping[str, Any]) -> None:
    for name in (*(_OF_CLASSIC_ONLY if kind == QUORUM else _OF_QUORUM_ONLY), *_OF_STREAM_ONLY):
        if name in arguments:
            raise precondition_failed(f"invalid arg '{name}' for {where} of queue type rabbit_{kind}_queue")


def assert_same_arguments(
    where: str, current: Mapping[str, Any], received: Mapping[str, Any], names: tuple[str, ...] | None = None
) -> None:
    """Raise Fault when a second declaration has other arguments than the first one; `names` are those that count."""
    for name in _CHECKS if names is None else names:
        mine, theirs = current.get(name), received.get(name)
        if mine != theirs or isinstance(mine, bool) != isinstance(theirs, bool):
            raise precondition_failed(
                f"inequivalent arg '{name}' for {where}: received {_shown(theirs)} but current is {_shown(mine)}"
            )


def inequivalent(name: str, where: str, received: object, current: object) -> Fault:
    """Return the fault for a property that differs from the one of the first declaration."""
    return precondition_failed(
        f"inequivalent arg '{name}' for {where}: received '{_word(received)}' but current is '{_word(current)}'"
    )


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(value: object) -> str:
    return "none" if value is None else f"the value '{_word(value)}' of type '{type_name(value)}'"


def _unacceptable(value: object) -> str:
    return f"{{unacceptable_type,{type_name(value)}}}"


def _no_integer(value: object) -> str:
    return f'"expected integer, got {type_name(value)}"'


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _natural(value: Any, _: Mapping[str, Any]) -> str | None:
    if not _is_integer(value):
        return _no_integer(value)
    return f"{{value_negative,{value}}}" if value < 0 else None


def _ttl(value: Any, arguments: Mapping[str, Any]) -> str | None:
    if error := _natural(value, arguments):
        return error
    return f"{{value_too_large,{value}}}" if value > MAX_TTL_MS else None


def _expires(value: Any, arguments: Mapping[str, Any]) -> str | None:
    return _ttl(value, arguments) or ("{value_zero,0}" if value == 0 else None)


def _string(value: Any, _: Mapping[str, Any]) -> str | None:
    return None if isinstance(value, str) else _unacceptable(value)


def _dead_letter_key(value: Any, arguments: Mapping[str, Any]) -> str | None:
    return _string(value, arguments) or (None if _DLX in arguments else "routing_key_but_no_dlx_defined")


def _priority(value: Any, arguments: Mapping[str, Any]) -> str | None:
    if error := _natural(value, arguments):
        return error
    return f"{{max_value_exceeded,{value}}}" if value > MAX_PRIORITY else None


def _anything(_value: Any, _: Mapping[str, Any]) -> None:
    """Take any value, as RabbitMQ does."""


def _boolean(value: Any, _: Mapping[str, Any]) -> str | None:
    return None if isinstance(value, bool) else _unacceptable(value)


def _one_of(error: str, *values: str) -> Callable[[Any, Mapping[str, Any]], str | None]:
    def check(value: Any, _: Mapping[str, Any]) -> str | None:
        if not isinstance(value, str):
            return _unacceptable(value)
        return None if value in values else error.format(value)

    return check


_CHECKS: Mapping[str, Callable[[Any, Mapping[str, Any]], str | None]] = {
    "x-expires": _expires,
    "x-message-ttl": _ttl,
    _DLX: _string,
    _DLX_KEY: _dead_letter_key,
    "x-dead-letter-strategy": _one_of("invalid_dlx_strategy", "at-most-once", "at-least-once"),
    "x-max-length": _natural,
    "x-max-length-bytes": _natural,
    "x-max-priority": _priority,
    "x-overflow": _one_of("invalid_overflow", DROP_HEAD, REJECT, REJECT_AND_DEAD_LETTER),
    "x-queue-mode": _one_of("\"unsupported queue mode '{}'\"", "default", "lazy"),
    "x-queue-version": _natural,
    "x-single-active-consumer": _boolean,
    "x-queue-type": _one_of("\"unsupported queue type '{}'\"", CLASSIC, QUORUM),
    "x-delivery-limit": _anything,
    "x-quorum-initial-group-size": _natural,
}
