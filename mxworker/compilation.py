"""From what a decorator was told to a `Handler`: all of it checked, every number settled, once, at the start.

What cannot work is an AppLoadError that names file and line.

Pure: no I/O, no event loop.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from mxworker.codec import Decoder, decoder_for
from mxworker.config import DEFAULT_CONCURRENCY, DEFAULT_HANDLER_TIMEOUT_S, MAX_PREFETCH
from mxworker.content_codec import ContentCodec
from mxworker.context import Context
from mxworker.errors import AppLoadError
from mxworker.kill_switch import KillSwitch
from mxworker.middleware import Middleware
from mxworker.properties import SHORT_STRING_BYTES
from mxworker.queues import Queue
from mxworker.retry_policy import DEFAULT_RETRY, RetryPolicy

HandlerFunction = Callable[..., Any]
Lifespan = Callable[[], Any]
OnError = Literal["retry", "reject", "requeue", "ack"]
Number = TypeVar("Number", int, float)

_ON_ERROR = get_args(OnError)
_MAX_BATCH_WAIT_S = 3600
_MAX_BATCH_BYTES = 64 * 1024 * 1024


class HandlerKind(Enum):
    """Where a handler runs."""

    ASYNC = auto()
    """On the event loop."""
    THREAD = auto()
    """In a thread of the worker process."""
    PROCESS = auto()
    """In a process of its own, which can be killed."""


_DEFAULT_CONCURRENCY = {HandlerKind.ASYNC: DEFAULT_CONCURRENCY, HandlerKind.THREAD: DEFAULT_CONCURRENCY}


@dataclass(frozen=True, slots=True)
class Batch:
    """When a batch is complete: at `size` deliveries, `max_bytes` of bodies, or `wait_s` after its first one came."""

    size: int
    wait_s: float
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Handler:
    """One compiled handler. Durations in seconds."""

    name: str
    queue: Queue
    function: HandlerFunction
    kind: HandlerKind
    decode: Decoder
    wants_context: bool
    concurrency: int
    prefetch: int
    timeout_s: float
    batch: Batch | None
    retry: RetryPolicy | None
    on_error: OnError
    reject_on: tuple[type[BaseException], ...]
    kill_switch: KillSwitch | None
    middleware: tuple[Middleware, ...]
    lifespans: tuple[Lifespan, ...]
    """Those of its registry and of all that include it, the outermost first; the last one's value is `ctx.state`."""

    @property
    def max_attempts(self) -> int:
        """How often a message is executed at most, not counting what a worker's death cut off.

        Without retries only a `Requeue` makes it more than once.
        """
        return (self.retry or DEFAULT_RETRY).max_attempts

    @property
    def keeps_order(self) -> bool:
        """Whether a message that is to be tried again at once must not be overtaken."""
        return self.queue.single_active_consumer and self.concurrency == 1

    @property
    def retry_steps_ms(self) -> tuple[int, ...]:
        """The delays of its retry queues; () when it has none."""
        return self.retry.steps_ms if self.retry is not None else ()

    @property
    def longest_hold_s(self) -> float:
        """How long a delivery may be unsettled when all that was sent ahead takes all the time it has.

        A batch counts as full: one that is complete by its age leaves less for the next to wait behind.
        """
        size, wait_s = (self.batch.size, self.batch.wait_s) if self.batch is not None else (1, 0.0)
        return self.timeout_s * math.ceil(self.prefetch / (size * self.concurrency)) + wait_s


@dataclass(frozen=True, slots=True)
class Registration:
    """What a decorator was told; nothing of it is checked yet."""

    queue: Queue
    function: HandlerFunction
    concurrency: int | None
    prefetch: int | None
    timeout_s: float | None
    retry: RetryPolicy | None
    on_error: OnError
    reject_on: tuple[type[BaseException], ...]
    kill_switch: KillSwitch | None
    cpu: bool = False
    batch: Batch | None = None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the operator says instead of the code; None leaves the code's word."""

    concurrency: int | None = None
    prefetch: int | None = None
    timeout_s: float | None = None


AS_IN_CODE = Overrides()


@dataclass(frozen=True, slots=True)
class Around:
    """What a registry puts around its handlers, what includes it as well; codecs are by media type."""

    middleware: tuple[Middleware, ...]
    lifespans: tuple[Lifespan, ...]
    codecs: Mapping[str, ContentCodec]


def compiled(said: Registration, overrides: Overrides, around: Around) -> Handler:
    """Return the handler that `said` describes. Raises AppLoadError."""
    function = said.function
    kind = _kind(said)
    payload, wants_context = _parameters(function)
    if said.batch is not None:
        payload = _element(function, payload)
    try:
        decode = decoder_for(payload, around.codecs)
    except AppLoadError as error:
        raise _fault(function, str(error)) from error
    concurrency = _concurrency(said, overrides, kind)
    batch = _checked_batch(said)
    size = batch.size if batch is not None else 1
    prefetch = _first(overrides.prefetch, said.prefetch, min(2 * size * concurrency, MAX_PREFETCH))
    if not 1 <= prefetch <= MAX_PREFETCH:
        raise _fault(function, f"has prefetch={prefetch}; it must be from 1 to {MAX_PREFETCH}")
    timeout_s = _first(overrides.timeout_s, said.timeout_s, DEFAULT_HANDLER_TIMEOUT_S)
    if not timeout_s > 0:  # so that NaN is refused too
        raise _fault(function, f"has timeout={timeout_s:g}; it must be above 0 seconds")
    _check_failure_policy(said)
    return Handler(
        name=function.__name__,
        queue=said.queue,
        function=function,
        kind=kind,
        decode=decode,
        wants_context=wants_context,
        concurrency=concurrency,
        prefetch=prefetch,
        timeout_s=timeout_s,
        # No larger than what the broker sends at once: it would only ever be complete by its age.
        batch=None if batch is None else replace(batch, size=min(batch.size, prefetch)),
        retry=said.retry,
        on_error=said.on_error,
        reject_on=said.reject_on,
        kill_switch=said.kill_switch,
        middleware=around.middleware,
        lifespans=around.lifespans,
    )


def _kind(said: Registration) -> HandlerKind:
    function = said.function
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise _fault(function, "is a generator; a handler returns its settlement and yields nothing")
    if not inspect.iscoroutinefunction(function):
        return HandlerKind.PROCESS if said.cpu else HandlerKind.THREAD
    if said.cpu:
        raise _fault(function, "is 'async def' and has cpu=True; what only computes is a plain 'def'")
    return HandlerKind.ASYNC


def _concurrency(said: Registration, overrides: Overrides, kind: HandlerKind) -> int:
    default = 1 if said.batch is not None else _DEFAULT_CONCURRENCY.get(kind, 1)
    concurrency = _first(overrides.concurrency, said.concurrency, default)
    if not 1 <= concurrency <= MAX_PREFETCH:
        raise _fault(said.function, f"has concurrency={concurrency}; it must be from 1 to {MAX_PREFETCH}")
    return concurrency


def _checked_batch(said: Registration) -> Batch | None:
    function, batch = said.function, said.batch
    if batch is None:
        return None
    if not 1 <= batch.size <= MAX_PREFETCH:
        raise _fault(function, f"has size={batch.size}; it must be from 1 to {MAX_PREFETCH}")
    if not 0 <= batch.wait_s <= _MAX_BATCH_WAIT_S:
        raise _fault(function, f"has wait={batch.wait_s:g}; it must be from 0 to {_MAX_BATCH_WAIT_S} seconds")
    if not 1 <= batch.max_bytes <= _MAX_BATCH_BYTES:
        raise _fault(function, f"has max_bytes={batch.max_bytes}; it must be from 1 to {_MAX_BATCH_BYTES}")
    return batch


def _check_failure_policy(said: Registration) -> None:
    function, reject_on = said.function, said.reject_on
    if said.on_error not in _ON_ERROR:
        raise _fault(function, f"has on_error={said.on_error!r}; it must be one of {', '.join(map(repr, _ON_ERROR))}")
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in reject_on):
        raise _fault(function, f"has reject_on={reject_on!r}; it must be exception classes")
    if said.retry is not None and not isinstance(said.retry, RetryPolicy):
        raise _fault(function, f"has retry={said.retry!r}; it must be a RetryPolicy, or None for no retries")
    if said.retry is not None:
        longest = said.queue.retry_name(said.retry.steps_ms[-1])
        if len(longest.encode()) > SHORT_STRING_BYTES:
            raise _fault(function, f"has retries, for which the name of its queue is too long: '{longest}'")


def _first(override: Number | None, registered: Number | None, default: Number) -> Number:
    """Return the operator's word, else the code's, else ours."""
    if override is not None:
        return override
    return default if registered is None else registered


def _parameters(function: HandlerFunction) -> tuple[Any, bool]:
    """Return the payload's annotation (Any when there is none), and whether a Context is wanted."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except Exception as error:  # the annotation is the user's code, and may do anything
        raise _fault(function, f"has an annotation that cannot be resolved: {error}") from error
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is inspect.Parameter.empty
    ]
    if not 1 <= len(parameters) <= 2 or any(parameter.kind not in positional for parameter in parameters):
        raise _fault(function, "must take the payload and, if wanted, a Context; nothing else")
    if len(parameters) == 2 and hints.get(parameters[1].name, Context) is not Context:
        raise _fault(function, f"must annotate its second parameter '{parameters[1].name}' as mxworker.Context")
    return hints.get(parameters[0].name, Any), len(parameters) == 2


def _element(function: HandlerFunction, annotation: Any) -> Any:
    """Return the annotation of one payload of a batch."""
    if annotation in (Any, list):
        return Any
    if get_origin(annotation) in (list, Sequence):
        return get_args(annotation)[0]
    raise _fault(function, f"takes its batch as {_shown(annotation)}; it must be a list, such as list[dict]")


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)


def _fault(function: HandlerFunction, what: str) -> AppLoadError:
    code = getattr(inspect.unwrap(function), "__code__", None)
    place = f"{code.co_filename}:{code.co_firstlineno}  " if code else ""
    return AppLoadError(f"{place}handler '{getattr(function, '__name__', function)}' {what}.")
