"""Makes a `Handler` of each registration, once, at the start: options are checked, and every number gets its value.

A handler that cannot work is an AppLoadError that names file and line.

Pure: no I/O, no event loop.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum, auto
from types import NoneType, UnionType
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

from mxworker.api.callables import (
    AnyCallable,
    Site,
    is_coroutine_function,
    is_generator_function,
    makes_async_context_manager,
    makes_context_manager,
    name_of,
    place_of,
)
from mxworker.api.circuit_breaker import CircuitBreaker
from mxworker.api.content_codec import ContentCodec
from mxworker.api.decoder import Decoder, decoder_for
from mxworker.api.handler_options import OnError
from mxworker.api.lifespan import Lifespan
from mxworker.api.message import Message
from mxworker.api.middleware import Middleware
from mxworker.api.parameters import parameters
from mxworker.api.queues import Queue
from mxworker.api.registration import (
    Batch,
    Registration,
    check_cpu,
    check_failure_policy,
    checked_batch,
    checked_reject_on,
    objective_s,
    timeout_s,
    whole,
)
from mxworker.api.retry_policy import DEFAULT_RETRY, RetryPolicy
from mxworker.config.bounds import DEFAULT_CONCURRENCY, DEFAULT_HANDLER_TIMEOUT_S, MAX_PREFETCH
from mxworker.config.overrides import Overrides
from mxworker.errors import AppLoadError
from mxworker.payloads.annotations import bare, shown
from mxworker.payloads.typed_payloads import TAKEN
from mxworker.system.foreign_errors import text_of
from mxworker.system.printable import foreign

Number = TypeVar("Number", int, float)

# Usual parameters of tasks in other libraries. Here a message is one document, which none of these types can take.
_SINGLE_VALUES = (int, float, complex, bool, Decimal, NoneType)


class HandlerKind(Enum):
    """The place in which a handler runs."""

    ASYNC = auto()
    """On the event loop."""
    THREAD = auto()
    """In a thread of the worker process."""
    PROCESS = auto()
    """In a process of its own, which can be killed."""


_DEFAULT_CONCURRENCY = {HandlerKind.ASYNC: DEFAULT_CONCURRENCY, HandlerKind.THREAD: DEFAULT_CONCURRENCY}


@dataclass(frozen=True, slots=True)
class Handler:
    """One compiled handler. Durations in seconds."""

    name: str
    queue: Queue
    function: AnyCallable
    kind: HandlerKind
    payload: Any
    """The annotation of its payload, of a single one when it takes batches."""
    decode: Decoder
    wants_context: bool
    concurrency: int
    prefetch: int
    timeout_s: float
    objective_s: float | None
    """Messages that are older than this when their handler starts are late; None when the code has no objective."""
    batch: Batch | None
    retry: RetryPolicy | None
    on_error: OnError
    reject_on: tuple[type[BaseException], ...]
    circuit_breaker: CircuitBreaker | None
    middleware: tuple[Middleware, ...]
    lifespans: tuple[Lifespan, ...]
    """The lifespans of its registry and of all that include it, the outermost first. The last yields `ctx.state`."""

    @property
    def max_attempts(self) -> int:
        """The most executions of a message, not counting those that a worker's death cut off.

        Without retries only a `Requeue` makes it more than once.
        """
        return (self.retry or DEFAULT_RETRY).max_attempts

    @property
    def keeps_order(self) -> bool:
        """Whether no message may overtake one that is executed again at once."""
        return self.queue.single_active_consumer and self.concurrency == 1

    @property
    def retry_steps_ms(self) -> tuple[int, ...]:
        """The delays of the retry queues; () when there are none."""
        return self.retry.steps_ms if self.retry is not None else ()

    @property
    def longest_hold_s(self) -> float:
        """The longest time that a delivery may be unsettled: all those ahead of it run until their timeout.

        Batches count as full: when one is complete by its age, fewer deliveries are ahead of the next.
        """
        size, wait_s = (self.batch.size, self.batch.wait_s) if self.batch is not None else (1, 0.0)
        return self.timeout_s * math.ceil(self.prefetch / (size * self.concurrency)) + wait_s


@dataclass(frozen=True, slots=True)
class Around:
    """The middleware, lifespans and codecs, by media type, of a registry and of those that include it."""

    middleware: tuple[Middleware, ...]
    lifespans: tuple[Lifespan, ...]
    codecs: Mapping[str, ContentCodec]


def compiled(said: Registration, overrides: Overrides, around: Around) -> Handler:
    """Return the handler that `said` describes. Raises AppLoadError that names it, its file and its line."""
    try:
        return _compiled(said, overrides, around)
    except AppLoadError as error:
        raise fault("handler", said.function, said.site, f"{error}") from error
    except Exception as error:  # a bug of ours, or a value whose own code raises
        why = f"cannot be made ready: {foreign(type(error).__name__)}: {text_of(error)}"
        raise fault("handler", said.function, said.site, why) from error


def fault(what: str, function: object, site: Site, text: str) -> AppLoadError:
    """Return the error for a handler that cannot work, or for `what` else the function is."""
    place = place_of(function, site)
    return AppLoadError(f"{foreign(place)}{'  ' if place else ''}{what} '{foreign(name_of(function))}' {text}.")


def _compiled(said: Registration, overrides: Overrides, around: Around) -> Handler:
    function, options = said.function, said.options
    check_cpu(said)
    kind = _kind(said)
    payload, wants_context = parameters(function, said.site)
    if said.batch is not None:
        payload = _element(payload)
    _check_payload(payload)
    decode = decoder_for(payload, around.codecs)
    default = 1 if said.batch is not None else _DEFAULT_CONCURRENCY.get(kind, 1)
    concurrency = whole("concurrency", _first(overrides.concurrency, options["concurrency"], default), MAX_PREFETCH)
    batch = _batch(checked_batch(said), overrides)
    size = batch.size if batch is not None else 1
    prefetch = _first(overrides.prefetch, options["prefetch"], min(2 * size * concurrency, MAX_PREFETCH))
    prefetch = whole("prefetch", prefetch, MAX_PREFETCH)
    check_failure_policy(said)
    return Handler(
        name=foreign(name_of(function)),
        queue=said.queue,
        function=function,
        kind=kind,
        payload=payload,
        decode=decode,
        wants_context=wants_context,
        concurrency=concurrency,
        prefetch=prefetch,
        timeout_s=timeout_s(_first(overrides.timeout_s, options["timeout"], DEFAULT_HANDLER_TIMEOUT_S)),
        objective_s=objective_s(options["objective"]),
        # No larger than the prefetch: the broker sends no more, and the batch would wait for its age each time.
        batch=None if batch is None else replace(batch, size=min(batch.size, prefetch)),
        retry=_retry(options["retry"], overrides),
        on_error=overrides.on_error or options["on_error"],
        reject_on=checked_reject_on(said),
        circuit_breaker=options["circuit_breaker"],
        middleware=around.middleware,
        lifespans=around.lifespans,
    )


def _check_payload(payload: Any) -> None:
    """Raise AppLoadError for an annotation of a payload that is certainly a mistake."""
    if bare(payload) is Message:
        raise AppLoadError("takes its payload as a Message, which is what is published; what is received is a Delivery")
    if _is_single_value(payload):
        raise AppLoadError(
            f"takes its payload as {shown(payload)}, but the payload is the whole body; use {TAKEN}. "
            "A body that is one number is what Any takes, too"
        )


def _is_single_value(annotation: Any) -> bool:
    """Whether nothing but a number, True, False or null fits `annotation`. With a constraint it is meant so."""
    annotation = bare(annotation)
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin in (Final, Union, UnionType):
        return all(map(_is_single_value, inside))
    if origin is Literal:
        return _are_numbers(inside)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return _are_numbers(member.value for member in annotation)
    return annotation in _SINGLE_VALUES


def _are_numbers(values: Iterable[object]) -> bool:
    return all(isinstance(value, _SINGLE_VALUES) for value in values)


def _kind(said: Registration) -> HandlerKind:
    function = said.function
    if isinstance(function, type):
        raise AppLoadError(
            f'is a class; register a function, or an object that can be called: handlers.consume("...")('
            f"{function.__name__}())"
        )
    if is_generator_function(function):
        raise AppLoadError("is a generator; a handler returns its settlement and yields nothing")
    if makes_context_manager(function) or makes_async_context_manager(function):
        raise AppLoadError("is a context manager, which nothing would enter; use 'with' inside of the handler")
    if not is_coroutine_function(function):
        return HandlerKind.PROCESS if said.cpu else HandlerKind.THREAD
    if said.cpu:
        raise AppLoadError("is 'async def' and has cpu=True; what only computes is a plain 'def'")
    return HandlerKind.ASYNC


def _first(override: Number | None, registered: Number | None, default: Number) -> Number:
    """Return the operator's value, else the code's, else our default."""
    if override is not None:
        return override
    return default if registered is None else registered


def _retry(registered: RetryPolicy | None, overrides: Overrides) -> RetryPolicy | None:
    """Return the policy of the code with the operator's number of retries; their delays, which are queues, stay."""
    if registered is None or overrides.max_retries is None:
        return registered
    return replace(registered, max_retries=overrides.max_retries)


def _batch(registered: Batch | None, overrides: Overrides) -> Batch | None:
    """Return the bounds of a batch, with those of the operator in place of those in the code."""
    if registered is None:
        return None
    size, wait_s = overrides.batch_size, overrides.batch_wait_s
    return replace(
        registered,
        size=registered.size if size is None else size,
        wait_s=registered.wait_s if wait_s is None else wait_s,
    )


def _element(annotation: Any) -> Any:
    """Return the annotation of one payload of a batch."""
    annotation = bare(annotation)
    if annotation in (Any, list, object):
        return Any
    if get_origin(annotation) in (list, Sequence):
        return next(iter(get_args(annotation)), Any)
    raise AppLoadError(f"takes its batch as {shown(annotation)}; it must be a list, such as list[dict]")
