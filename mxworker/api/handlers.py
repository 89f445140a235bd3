"""The registry of handlers: each queue has one function and its options.

The argument of `mxworker run app:handlers` names a `Handlers` object. A decorator only records its arguments.
`compile_handlers` checks all of them when the worker starts; its errors name file and line (see `compilation`).

Pure: no I/O, no event loop, no global state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Unpack

from mxworker.api.callables import (
    AnyCallable,
    Site,
    bare_function,
    caller,
    can_be_called_with,
    is_generator_function,
    makes_async_context_manager,
    makes_context_manager,
    name_of,
    site_of,
)
from mxworker.api.collisions import refuse_collisions
from mxworker.api.compilation import Around, Handler, compiled, fault
from mxworker.api.content_codec import NO_CODECS, ContentCodec
from mxworker.api.handler_options import BatchOptions, SingleOptions, batch_options, single_options
from mxworker.api.lifespan import Lifespan
from mxworker.api.middleware import Middleware
from mxworker.api.queues import Queue
from mxworker.api.registration import Batch, Registration
from mxworker.config.overrides import AS_IN_CODE, NO_OVERRIDES, Overrides
from mxworker.config.pool import PoolSettings
from mxworker.config.publisher import PublisherSettings
from mxworker.errors import AppLoadError
from mxworker.payloads.serializers import Serializer

Function = TypeVar("Function", bound=Callable[..., Any])


class Handlers:
    """A registry of handlers, one per queue."""

    def __init__(self, *, publisher: PublisherSettings | None = None, pool: PoolSettings | None = None) -> None:
        """Start with no handlers.

        `publisher` and `pool` are the application's own settings for `ctx.publisher` and for the connections of a
        worker. What differs from their defaults counts, unless a flag, a variable or a file says otherwise. Of a
        registry that another one includes they do not count.
        """
        for name, given, kind in (("publisher", publisher, PublisherSettings), ("pool", pool, PoolSettings)):
            if given is not None and not isinstance(given, kind):
                raise TypeError(f"Handlers({name}=...) takes {kind.__name__}, not {given!r:.80}")
        self._own_settings = (publisher, pool)
        self._own_registrations: dict[str, Registration] = {}
        self._own_declared: dict[str, Queue] = {}
        self._others: list[Handlers] = []
        self._own_codecs: dict[str, ContentCodec] = {}
        self._own_layers: list[Middleware] = []
        self._own_lifespan: Lifespan | None = None

    # ---- handlers

    def consume(self, queue: str | Queue, **options: Unpack[SingleOptions]) -> Callable[[Function], Function]:
        """Register a function as the handler of `queue`. The options are in `SingleOptions` and `HandlerOptions`.

        An `async def` runs on the event loop, a `def` in a thread. With `cpu=True` a `def` runs in a process of its
        own, so that its computing holds up no other handler. Such a process is killed when its time is up. A crash of
        the process costs one attempt of the message that it executes. The process loads the application and enters the
        lifespans itself. In its context `publisher.publish_sync` works, while `channel`, `pause`, `resume` and `stats`
        do not.

        The first parameter is the payload, decoded by its annotation (see `codec`). An optional second parameter is a
        `Context`, with a default or without. Objects with a `__call__`, bound methods, static methods and
        `functools.partial` can be registered, too; a wrapper made with `functools.wraps` has the parameters of the
        function that it wraps.

        The handler returns or raises a settlement. None acks. An awaitable result is awaited, and every other result is
        a failure.

        The function is returned unchanged and stays callable. Raises TypeError for an unknown option.
        """
        taken = _as_queue(queue, "consume")
        chosen = single_options(options)
        return self._registering(
            lambda function, site: Registration(taken, function, chosen, cpu=chosen["cpu"], site=site)
        )

    def consume_batch(self, queue: str | Queue, **options: Unpack[BatchOptions]) -> Callable[[Function], Function]:
        """Register a function that takes the deliveries of `queue` in batches: a list of payloads.

        The options are in `BatchOptions` and `HandlerOptions`. A batch is handled when it has `size` deliveries, when
        their bodies have `max_bytes`, or `wait` seconds after its first delivery came. While other batches run, it can
        grow further. The function returns None when all are done, one settlement for all, or one for each; an exception
        that it raises holds for all. One for each is an iterable of the same length, in the order of the list, or a
        mapping with all positions from 0 on as keys; in it None means done, and an exception a failure. A body that
        cannot be decoded is dead-lettered at once and is not in the list; `ctx.deliveries` matches the list. Everything
        else is as in `consume`.
        """
        taken = _as_queue(queue, "consume_batch")
        chosen = batch_options(options)
        batch = Batch(chosen["size"], chosen["wait"], chosen["max_bytes"])
        return self._registering(lambda function, site: Registration(taken, function, chosen, batch=batch, site=site))

    def _registering(self, describe: Callable[[AnyCallable, Site], Registration]) -> Callable[[Function], Function]:
        """Return the decorator that registers the registration of `describe`, and returns the function unchanged."""

        def register(function: Function) -> Function:
            _refuse_uncallable(function, "handler")
            registration = describe(bare_function(function), site_of(function, caller()))
            self._refuse_taken(registration.queue.name)
            self._own_registrations[registration.queue.name] = registration
            return function

        return register

    def _refuse_taken(self, queue: str) -> None:
        for member in self._family():
            taken = member._own_registrations.get(queue)
            if taken is not None:
                where = f" at {taken.site.place}" if taken.site.place else ""
                raise ValueError(
                    f"queue '{queue}' has a handler already, '{name_of(taken.function)}'{where}; one queue has one "
                    "handler. Do both in one function, or give each a queue of its own"
                )

    def declare(self, queue: str | Queue) -> Queue:
        """Have workers declare a queue that no handler here consumes, before they consume any queue. Return the queue.

        Declare the queues that handlers publish to: a message to a queue that does not exist is `Unroutable`. The queue
        is declared like one that is consumed, with its dead-letter queue, so that a handler for it can come later.
        """
        declared = _as_queue(queue, "declare")
        if declared.name in self._own_declared:
            raise ValueError(f"queue '{declared.name}' is declared already")
        self._own_declared[declared.name] = declared
        return declared

    # ---- lifespan, middleware, codecs, included registries

    def lifespan(self, function: Function) -> Function:
        """Register the lifespan: it runs around the whole service, once in each worker process, after the fork.

        `function` is an async generator function that yields once, or returns an async context manager. The value that
        it yields is `ctx.state`. It is entered before the first delivery and left after the last handler.
        """
        if self._own_lifespan is not None:
            raise ValueError("there is a lifespan already; one registry has one")
        _refuse_uncallable(function, "lifespan")
        taken = bare_function(function)
        self._own_lifespan = Lifespan(taken, site_of(taken, caller()))
        return function

    def middleware(self, function: Function) -> Function:
        """Register a middleware around every handler of this registry and of those it includes; see `middleware`.

        A middleware is an `async def`, or any callable that returns an awaitable, and runs on the event loop. The first
        middleware registered is the outermost.
        """
        _refuse_uncallable(function, "middleware")
        taken = bare_function(function)
        if isinstance(taken, type) and not hasattr(taken, "__await__"):
            raise ValueError(f"middleware '{name_of(taken)}' is a class; register an object of it that can be called")
        if is_generator_function(taken):
            raise ValueError(f"middleware '{name_of(taken)}' is a generator; it awaits call_next and yields nothing")
        if makes_context_manager(taken) or makes_async_context_manager(taken):
            raise ValueError(
                f"middleware '{name_of(taken)}' is a context manager, which nothing would enter; "
                "it awaits call_next, in a 'with' if needed"
            )
        if not can_be_called_with(taken, 3):
            raise ValueError(f"middleware '{name_of(taken)}' must take three parameters: payload, ctx, call_next")
        self._own_layers.append(taken)
        return function

    def codec(self, content_type: str, decode: Callable[[bytes], Any], *, encode: Serializer | None = None) -> None:
        """Register the codec of `content_type`, for all handlers here and those of included registries.

        `decode` runs on the event loop. The value that it returns is checked against the handler's annotation, as JSON
        is; `bytes`, `str` and `Delivery` take the body as it came. Every exception that it raises makes the delivery
        undecodable. `encode` makes the bodies of messages with that `content_type`, see `serializers`.

        Content types are compared without parameters and case; "application/json" replaces the built-in codec. Raises
        ValueError for a second codec of one type, and for pickle and similar formats.
        """
        codec = ContentCodec(content_type, decode, encode)
        if codec.media_type in self._own_codecs:
            raise ValueError(f"{content_type!r} has a codec already; one content type has one codec")
        self._own_codecs[codec.media_type] = codec

    def include(self, other: Handlers) -> None:
        """Add all handlers of another registry, also those that it registers later.

        For its handlers, its middleware and lifespan are inside ours, and its codecs replace ours. `ctx.state` is the
        value of its lifespan, or of ours when it has none.
        """
        if not isinstance(other, Handlers):
            raise TypeError(f"include takes a Handlers object, not {other!r:.80}")
        if self in other._family():
            raise ValueError("a registry cannot include itself")
        for queue in other.queues:
            self._refuse_taken(queue)
        self._others.append(other)

    def _family(self) -> list[Handlers]:
        """Return this registry and all that it includes."""
        return [self, *(member for included in self._others for member in included._family())]

    # ---- the result

    def __len__(self) -> int:
        return len(self.queues)

    @property
    def queues(self) -> tuple[str, ...]:
        """The names of the consumed queues, in the order of registration; those of included registries follow."""
        return tuple(queue for member in self._family() for queue in member._own_registrations)

    @property
    def declared_queues(self) -> tuple[Queue, ...]:
        """The queues that are declared and not consumed. Of two with one name, that of the outer registry counts."""
        declared = {name: queue for member in reversed(self._family()) for name, queue in member._own_declared.items()}
        return tuple(queue for name, queue in declared.items() if name not in self.queues)

    @property
    def serializers(self) -> Mapping[str, Serializer]:
        """The `encode` functions of the codecs, by content type. Of two, that of the outer registry counts."""
        codecs = [codec for member in reversed(self._family()) for codec in member._own_codecs.values()]
        return {codec.content_type: codec.encode for codec in codecs if codec.encode is not None}

    def _fault_of(self, queue: str, text: str) -> AppLoadError:
        """Return the error for the handler of `queue`, or for its `declare`."""
        for member in self._family():
            if (said := member._own_registrations.get(queue)) is not None:
                return fault("handler", said.function, said.site, text)
        return AppLoadError(f'declare("{queue}") {text}.')

    def _compile(self, overrides: Overrides, of_queue: Mapping[str, Overrides], outer: Around) -> list[Handler]:
        around = Around(
            middleware=(*outer.middleware, *self._own_layers),
            lifespans=outer.lifespans if self._own_lifespan is None else (*outer.lifespans, self._own_lifespan),
            codecs={**outer.codecs, **self._own_codecs},
        )
        handlers = [
            compiled(said, of_queue.get(said.queue.name, overrides), around)
            for said in self._own_registrations.values()
        ]
        for included in self._others:
            handlers += included._compile(overrides, of_queue, around)
        return handlers


def settings_in(handlers: Handlers) -> tuple[PublisherSettings | None, PoolSettings | None]:
    """Return the settings that the code of the application has for its workers."""
    return handlers._own_settings


def compile_handlers(
    handlers: Handlers, overrides: Overrides = AS_IN_CODE, of_queue: Mapping[str, Overrides] = NO_OVERRIDES
) -> tuple[Handler, ...]:
    """Check the handlers of a registry and of those that it includes, and return them.

    `overrides` are for the handlers of queues for which `of_queue` has none.

    Raises AppLoadError, which names file and line.
    """
    twice = [queue for queue, count in Counter(handlers.queues).items() if count > 1]
    if twice:
        raise AppLoadError(f"queue '{twice[0]}' has two handlers, in registries that include each other.")
    for member in handlers._family():
        if member._own_lifespan is not None:
            member._own_lifespan.check()
    made = tuple(handlers._compile(overrides, of_queue, Around((), (), NO_CODECS)))
    refuse_collisions(made, handlers.declared_queues, handlers._fault_of)
    return made


def _as_queue(queue: str | Queue, decorator: str) -> Queue:
    """Return the queue of a decorator. Raises TypeError, also for a decorator that is used without parentheses."""
    if isinstance(queue, Queue):
        return queue
    if isinstance(queue, str):
        return Queue(queue)
    if callable(queue) or isinstance(queue, classmethod):
        raise TypeError(f'{decorator} needs the name of a queue: write @handlers.{decorator}("orders")')
    raise TypeError(f"{decorator} needs the name of a queue, or a Queue, not {queue!r:.80}")


def _refuse_uncallable(function: object, what: str) -> None:
    """Raise TypeError for an object that cannot be called, since its registration is a mistake."""
    if isinstance(function, classmethod):
        name = name_of(function.__func__)
        raise TypeError(
            f"'{name}' is a class method, which has no class before its class is made; register it below the class: "
            f'handlers.consume("...")(Thing.{name})'
        )
    if not callable(function):
        raise TypeError(f"a {what} is a function, or an object that can be called, not {function!r:.80}")
