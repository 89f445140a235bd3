"""The arguments of a decorator, and the checks of their values.

The text of every AppLoadError here continues the words "the handler".

Pure.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast, get_args

from mxworker.api.callables import NOWHERE, AnyCallable, Site
from mxworker.api.circuit_breaker import CircuitBreaker
from mxworker.api.handler_options import HandlerOptions, OnError
from mxworker.api.queues import Queue
from mxworker.api.retry_policy import RetryPolicy
from mxworker.config.bounds import MAX_BATCH_WAIT_S, MAX_DURATION_S, MAX_PREFETCH
from mxworker.config.units import parse_duration_s
from mxworker.errors import AppLoadError, ConfigError
from mxworker.wire.field_table import SHORT_STRING_BYTES

"""A year, in seconds: no handler needs more, and every event loop can wait for as long."""
_ON_ERROR = get_args(OnError)
_MAX_BATCH_BYTES = 64 * 1024 * 1024
_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Batch:
    """When a batch is complete: at `size` deliveries, `max_bytes` of bodies, or `wait_s` after its first one came."""

    size: int
    wait_s: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Registration:
    """The arguments of a decorator. Only the queue is checked yet; other values may have any type."""

    queue: Queue
    function: AnyCallable
    options: HandlerOptions
    """All options, the defaults included."""
    cpu: bool = False
    batch: Batch | None = None
    site: Site = NOWHERE


def whole(name: str, value: Any, most: int) -> int:
    """Return `value` as a number from 1 to `most`. Raises AppLoadError."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise AppLoadError(f"has {name}={_shown(value)}; it must be a whole number from 1 to {most}")
    if not 1 <= number <= most:
        raise AppLoadError(f"has {name}={number}; it must be from 1 to {most}")
    return number


def timeout_s(value: Any) -> float:
    """Return the time that a handler may run. Raises AppLoadError."""
    return _up_to_a_year("timeout", _seconds("timeout", value))


def objective_s(value: Any) -> float | None:
    """Return the age above which a message is late; None when no objective is given. Raises AppLoadError."""
    if value is None:
        return None
    if not isinstance(value, str):
        return _up_to_a_year("objective", _seconds("objective", value))
    try:
        return _up_to_a_year("objective", parse_duration_s(value))
    except ConfigError:
        raise AppLoadError(f"has objective={_shown(value)}; write it like 250ms, 30s, 5m or 1h") from None


def _up_to_a_year(name: str, time_s: float) -> float:
    """Return `time_s` if it is above 0 and at most a year. Raises AppLoadError."""
    if not time_s > 0:  # so that NaN is refused too
        raise AppLoadError(f"has {name}={_shown(time_s)}; it must be above 0 seconds")
    if time_s > MAX_DURATION_S:
        raise AppLoadError(f"has {name}={_shown(time_s)}; it must be at most {MAX_DURATION_S} seconds, a year")
    return time_s


def _wait_s(value: Any) -> float:
    time_s = _seconds("wait", value)
    if not 0 <= time_s <= MAX_BATCH_WAIT_S:
        raise AppLoadError(f"has wait={_shown(time_s)}; it must be from 0 to {MAX_BATCH_WAIT_S:g} seconds")
    return time_s


def _seconds(name: str, value: Any) -> float:
    """Return `value` if it is a number. Raises AppLoadError."""
    if isinstance(value, timedelta):
        seconds = f"{value.total_seconds():g}"
        raise AppLoadError(f"has {name}={value!r}; it must be a number of seconds: write {name}={seconds}")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise AppLoadError(f"has {name}={_shown(value)}; it must be a number of seconds")
    return value


def checked_batch(said: Registration) -> Batch | None:
    """Return the bounds of a batch; None for a handler of single deliveries. Raises AppLoadError."""
    batch = said.batch
    if batch is None:
        return None
    return Batch(
        whole("size", batch.size, MAX_PREFETCH),
        _wait_s(batch.wait_s),
        whole("max_bytes", batch.max_bytes, _MAX_BATCH_BYTES),
    )


def checked_reject_on(said: Registration) -> tuple[type[BaseException], ...]:
    """Return the exceptions of `reject_on`, which may be one class, as in `except`. Raises AppLoadError."""
    kinds: Any = said.options["reject_on"]
    if isinstance(kinds, type):
        kinds = (kinds,)
    if isinstance(kinds, Sequence | set | frozenset) and not isinstance(kinds, str):
        kinds = tuple(kinds)
        if all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            return cast("tuple[type[BaseException], ...]", kinds)
    raise AppLoadError(f"has reject_on={_shown(kinds)}; it must be exception classes")


def check_failure_policy(said: Registration) -> None:
    """Raise AppLoadError when an option about failures is not valid."""
    on_error, retry, breaker = said.options["on_error"], said.options["retry"], said.options["circuit_breaker"]
    if on_error not in _ON_ERROR:
        raise AppLoadError(f"has on_error={_shown(on_error)}; it must be one of {', '.join(map(repr, _ON_ERROR))}")
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise AppLoadError(f"has retry={_shown(retry)}; it must be a RetryPolicy, or None for no retries")
    if breaker is not None and not isinstance(breaker, CircuitBreaker):
        raise AppLoadError(
            f"has circuit_breaker={_shown(breaker)}; it must be a CircuitBreaker, such as CircuitBreaker(), or None"
        )
    if retry is not None:
        longest = said.queue.retry_name(retry.steps_ms[-1])
        if len(longest.encode()) > SHORT_STRING_BYTES:
            raise AppLoadError(f"has retries, for which the name of its queue is too long: '{longest}'")


def check_cpu(said: Registration) -> None:
    """Raise AppLoadError when `cpu` is neither True nor False."""
    if not isinstance(said.cpu, bool):
        raise AppLoadError(f"has cpu={_shown(said.cpu)}; it must be True or False")


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:  # the application's code
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
