"""The registry: which function consumes which queue, and how.

A `Handlers` object is what `mxworker run app:handlers` names. Registering only notes what was said; `compile` checks it
all at once, when the worker starts, and says what cannot work with file and line.

Pure: no I/O, no event loop, no global state.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

from mxworker.codec import TAKEN, Decoder, decoder_for
from mxworker.config import DEFAULT_CONCURRENCY, DEFAULT_HANDLER_TIMEOUT_S, MAX_PREFETCH
from mxworker.context import Context
from mxworker.errors import AppLoadError
from mxworker.queues import Queue

HandlerFunction = Callable[..., Awaitable[Any]]
Function = TypeVar("Function", bound=HandlerFunction)
Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class Handler:
    """One compiled handler: everything is checked, every number is settled. Durations in seconds."""

    name: str
    queue: Queue
    function: HandlerFunction
    decode: Decoder
    wants_context: bool
    concurrency: int
    prefetch: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class _Registration:
    """What the decorator was told; nothing of it is checked yet."""

    queue: Queue
    function: HandlerFunction
    concurrency: int | None
    prefetch: int | None
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Overrides:
    """What the operator says instead of the code; None leaves the code's word."""

    concurrency: int | None = None
    prefetch: int | None = None
    timeout_s: float | None = None


class Handlers:
    """A registry of handlers, one per queue."""

    def __init__(self) -> None:
        """Start with no handlers."""
        self._registrations: dict[str, _Registration] = {}

    def consume(
        self,
        queue: str | Queue,
        *,
        concurrency: int | None = None,
        prefetch: int | None = None,
        timeout: float | None = None,
    ) -> Callable[[Function], Function]:
        """Register an `async def` function as the handler of `queue`.

        Its first parameter is the payload, decoded as its annotation says (see `codec`); an optional second one is a
        `Context`. It returns or raises a settlement; returning None acks. Any other exception, and running longer than
        `timeout`, rejects the delivery into the dead-letter queue.

        `concurrency`: handlers running at once in each process, default 32. `prefetch`: unsettled deliveries the broker
        may send to each process ahead, default 2 x concurrency; fewer than `concurrency` limits that too. `timeout`:
        seconds, default 30.

        The function is returned as it is and stays callable.
        """
        declared = Queue(queue) if isinstance(queue, str) else queue

        def register(function: Function) -> Function:
            if declared.name in self._registrations:
                raise ValueError(f"queue '{declared.name}' has a handler already; one queue has one handler")
            self._registrations[declared.name] = _Registration(declared, function, concurrency, prefetch, timeout)
            return function

        return register

    def __len__(self) -> int:
        return len(self._registrations)

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of the queues, in the order of registration."""
        return tuple(self._registrations)

    def compile(self, overrides: Overrides = Overrides()) -> tuple[Handler, ...]:
        """Return the handlers, checked. Raises AppLoadError that names file and line."""
        return tuple(_compile(registration, overrides) for registration in self._registrations.values())


def _compile(registration: _Registration, overrides: Overrides) -> Handler:
    function = registration.function
    if not inspect.iscoroutinefunction(function):
        raise _fault(function, "is not 'async def'; plain functions are not supported yet")
    payload, wants_context = _parameters(function)
    decode = decoder_for(payload)
    if decode is None:
        raise _fault(function, f"takes its payload as {_shown(payload)}, which nothing can decode; use {TAKEN}")
    concurrency = _first(overrides.concurrency, registration.concurrency, DEFAULT_CONCURRENCY)
    if not 1 <= concurrency <= MAX_PREFETCH:
        raise _fault(function, f"has concurrency={concurrency}; it must be from 1 to {MAX_PREFETCH}")
    prefetch = _first(overrides.prefetch, registration.prefetch, min(2 * concurrency, MAX_PREFETCH))
    if not 1 <= prefetch <= MAX_PREFETCH:
        raise _fault(function, f"has prefetch={prefetch}; it must be from 1 to {MAX_PREFETCH}")
    timeout_s = _first(overrides.timeout_s, registration.timeout_s, DEFAULT_HANDLER_TIMEOUT_S)
    if not timeout_s > 0:  # so that NaN is refused too
        raise _fault(function, f"has timeout={timeout_s:g}; it must be above 0 seconds")
    return Handler(
        name=function.__name__,
        queue=registration.queue,
        function=function,
        decode=decode,
        wants_context=wants_context,
        concurrency=concurrency,
        prefetch=prefetch,
        timeout_s=timeout_s,
    )


def _first(override: Number | None, registered: Number | None, default: Number) -> Number:
    """Return the operator's word, else the code's, else ours."""
    if override is not None:
        return override
    return default if registered is None else registered


def _parameters(function: HandlerFunction) -> tuple[Any, bool]:
    """Return the payload's annotation (Any when there is none), and whether a Context is wanted."""
    try:
        hints = get_type_hints(function)
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


def _shown(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _fault(function: HandlerFunction, what: str) -> AppLoadError:
    code = getattr(inspect.unwrap(function), "__code__", None)
    place = f"{code.co_filename}:{code.co_firstlineno}  " if code else ""
    return AppLoadError(f"{place}handler '{getattr(function, '__name__', function)}' {what}.")
