"""What is registered is checked once, at the start, and a fault is named with file, line and the way out."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta

from mxworker import Context, Delivery, Handlers, Queue
from mxworker.api.compilation import Handler, HandlerKind
from mxworker.api.handlers import compile_handlers
from mxworker.api.registration import Batch
from mxworker.config.overrides import Overrides
from mxworker.errors import AppLoadError, DecodeError
from mxworker.payloads.typed_payloads import TAKEN
from tests.pure.api.test_delivery import delivery
from tests.rabbit.raw import raw_properties

AS_IN_CODE = Overrides()


async def take(payload: dict[str, Any]) -> None:
    """A handler as it should be."""


def compiled(function: Callable[..., Any], overrides: Overrides = AS_IN_CODE, **said: Any) -> Handler:
    """Register `function` for one queue and compile it."""
    handlers = Handlers()
    handlers.consume("orders", **said)(function)
    (handler,) = compile_handlers(handlers, overrides)
    return handler


def fault(function: Callable[..., Any], **said: Any) -> str:
    """Return what is wrong with `function`, without file and line, which are checked."""
    with pytest.raises(AppLoadError) as caught:
        compiled(function, **said)
    place, _, text = str(caught.value).partition("  ")
    _, line = inspect.getsourcelines(function)
    assert place == f"{Path(__file__)}:{line}"
    return text


# ---- what is fine


def test_defaults() -> None:
    handler = compiled(take)
    assert (handler.name, handler.function, handler.queue.name) == ("take", take, "orders")
    assert (handler.concurrency, handler.prefetch, handler.timeout_s) == (32, 64, 30.0)
    assert handler.objective_s is None
    assert not handler.wants_context


def test_name_of_a_handler_is_printable() -> None:
    def odd(payload: bytes) -> None: ...

    odd.__name__ = "a\n\x1bb"
    assert compiled(odd).name == "a\\x0a\\x1bb"


def test_decorated_function_is_returned_as_it_is() -> None:
    assert Handlers().consume("orders")(take) is take


async def with_context(payload: bytes, ctx: Context) -> None: ...


async def with_bare_context(payload: str, ctx) -> None: ...  # type: ignore[no-untyped-def]


async def with_defaults(payload: list[Any], ctx: Context, *, limit: int = 3) -> None: ...


@pytest.mark.parametrize("function", [with_context, with_bare_context, with_defaults])
def test_second_parameter_is_the_context(function: Callable[..., Any]) -> None:
    assert compiled(function).wants_context


async def without_annotation(payload) -> None: ...  # type: ignore[no-untyped-def]


async def whole(delivery: Delivery) -> None: ...


async def positional(payload: dict[str, Any], /) -> None: ...


@pytest.mark.parametrize("function", [without_annotation, whole, positional])
def test_payload_alone_is_enough(function: Callable[..., Any]) -> None:
    assert not compiled(function).wants_context


def test_numbers_in_code_are_taken() -> None:
    handler = compiled(take, concurrency=4, prefetch=2, timeout=0.5)
    assert (handler.concurrency, handler.prefetch, handler.timeout_s) == (4, 2, 0.5)


@pytest.mark.parametrize("objective", ["5m", "300s", "300", 300, 300.0])
def test_objective_is_a_number_of_seconds_or_a_duration(objective: str | float) -> None:
    assert compiled(take, objective=objective).objective_s == 300
    assert batch_of(takes_list, objective=objective).objective_s == 300


def test_prefetch_follows_concurrency_up_to_what_the_wire_can_say() -> None:
    assert compiled(take, concurrency=10).prefetch == 20
    assert compiled(take, concurrency=65535).prefetch == 65535


def test_the_operator_has_the_last_word() -> None:
    handler = compiled(take, Overrides(concurrency=7, prefetch=9, timeout_s=2.0), concurrency=4, prefetch=2, timeout=1)
    assert (handler.concurrency, handler.prefetch, handler.timeout_s) == (7, 9, 2.0)
    assert compiled(take, Overrides(concurrency=7), concurrency=4).prefetch == 14


def test_handlers_keep_the_order_of_registration() -> None:
    handlers = Handlers()
    for name in ("b", "a", "c"):
        handlers.consume(name)(take)
    assert handlers.queues == ("b", "a", "c")
    assert [handler.queue.name for handler in compile_handlers(handlers)] == ["b", "a", "c"]
    assert len(handlers) == 3


def test_queue_has_one_handler() -> None:
    handlers = Handlers()
    handlers.consume("orders")(take)
    with pytest.raises(ValueError, match="queue 'orders' has a handler already"):
        handlers.consume(Queue("orders", type="classic"))(take)


def plain(payload: dict[str, Any]) -> None: ...


def test_plain_function_runs_in_a_thread_or_a_process() -> None:
    assert compiled(plain).kind is HandlerKind.THREAD
    assert compiled(plain).concurrency == 32
    assert compiled(plain, cpu=True).kind is HandlerKind.PROCESS
    assert compiled(plain, cpu=True).concurrency == 1


def batch_of(function: Callable[..., Any], **said: Any) -> Handler:
    handlers = Handlers()
    handlers.consume_batch("events", **said)(function)
    (handler,) = compile_handlers(handlers)
    return handler


async def takes_list(payloads: list[dict[str, Any]]) -> None: ...


def test_batch_has_the_defaults_of_the_guide() -> None:
    handler = batch_of(takes_list)
    assert handler.batch == Batch(100, 0.1, 16 * 1024 * 1024)
    assert (handler.concurrency, handler.prefetch) == (1, 200)


def test_batch_is_no_larger_than_what_the_broker_sends_ahead() -> None:
    batch = batch_of(takes_list, size=100, prefetch=30).batch
    assert batch is not None
    assert batch.size == 30


@pytest.mark.parametrize("said", [{"size": 0}, {"wait": -1}, {"wait": float("nan")}, {"max_bytes": 0}])
def test_batch_that_cannot_work(said: dict[str, Any]) -> None:
    with pytest.raises(AppLoadError, match=f"has {next(iter(said))}="):
        batch_of(takes_list, **said)


def test_batch_is_a_list() -> None:
    with pytest.raises(AppLoadError, match="takes its batch as dict"):
        batch_of(take)


@pytest.mark.parametrize(
    ("said", "hold_s"),
    [
        ({}, 60),
        ({"prefetch": 100, "concurrency": 1, "timeout": 20}, 2000),
        ({"prefetch": 7, "concurrency": 3, "timeout": 10}, 30),
        ({"prefetch": 2, "concurrency": 32, "timeout": 10}, 10),
    ],
)
def test_longest_hold_is_the_timeout_as_often_as_one_waits_for_another(said: dict[str, Any], hold_s: float) -> None:
    handlers = Handlers()
    handlers.consume("a", **said)(take)
    (handler,) = compile_handlers(handlers)
    assert handler.longest_hold_s == hold_s


def test_longest_hold_of_a_batch_counts_batches_and_the_wait_for_one() -> None:
    handlers = Handlers()

    @handlers.consume_batch("a", size=10, wait=2, prefetch=35, concurrency=2, timeout=60)
    async def batch(payloads: list[dict]) -> None: ...  # type: ignore[type-arg]

    (handler,) = compile_handlers(handlers)
    assert handler.longest_hold_s == 2 * 60 + 2


def test_queue_knows_how_long_the_broker_waits_for_a_settlement() -> None:
    assert Queue("q").consumer_timeout_s == 1800
    assert Queue("q", arguments={"x-consumer-timeout": 90_000}).consumer_timeout_s == 90
    assert Queue("q", arguments={"x-consumer-timeout": "soon"}).consumer_timeout_s == 1800


# ---- registries in registries


async def outer(payload: Any, ctx: Any, call_next: Any) -> None: ...


async def inner(payload: Any, ctx: Any, call_next: Any) -> None: ...


async def lifespan() -> Any:
    yield 1


def test_included_registry_keeps_its_own_inside_ours() -> None:
    ours, theirs = Handlers(), Handlers()
    ours.middleware(outer)
    theirs.middleware(inner)
    ours.lifespan(lifespan)
    ours.include(theirs)
    ours.consume("a")(take)
    theirs.consume("b")(take)
    assert ours.queues == ("a", "b")
    first, second = compile_handlers(ours)
    assert (first.middleware, second.middleware) == ((outer,), (outer, inner))
    assert first.lifespans == second.lifespans
    assert len(first.lifespans) == 1
    assert compile_handlers(theirs)[0].lifespans == ()
    theirs.lifespan(lifespan)
    first, second = compile_handlers(ours)
    assert (len(first.lifespans), len(second.lifespans)) == (1, 2)
    assert second.lifespans[0] is first.lifespans[0]


def test_queue_has_one_handler_over_all_registries() -> None:
    ours, theirs = Handlers(), Handlers()
    ours.consume("a")(take)
    ours.include(theirs)
    theirs.consume("b")(take)
    with pytest.raises(ValueError, match="queue 'b' has a handler already"):
        ours.consume("b")(take)
    theirs.consume("a")(take)
    with pytest.raises(AppLoadError, match="queue 'a' has two handlers"):
        compile_handlers(ours)


def test_registry_does_not_include_itself() -> None:
    ours, theirs = Handlers(), Handlers()
    ours.include(theirs)
    with pytest.raises(ValueError, match="cannot include itself"):
        theirs.include(ours)


# ---- what is not, with file and line


async def generator(payload: bytes) -> Any:
    yield payload


def test_async_generator() -> None:
    assert (
        fault(generator) == "handler 'generator' is a generator; a handler returns its settlement and yields nothing."
    )


def test_coroutine_function_does_not_compute_in_a_process() -> None:
    assert "is 'async def' and has cpu=True" in fault(take, cpu=True)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"on_error": "explode"}, "has on_error='explode'; it must be one of 'retry', 'reject', 'requeue', 'ack'."),
        ({"reject_on": ["ValueError"]}, "has reject_on=('ValueError',); it must be exception classes."),
        ({"retry": 3}, "has retry=3; it must be a RetryPolicy, or None for no retries."),
    ],
)
def test_failure_policy_that_means_nothing(said: dict[str, Any], text: str) -> None:
    assert fault(take, **said).endswith(text)


def test_name_of_the_longest_retry_queue_has_to_fit() -> None:
    handlers = Handlers()
    handlers.consume("q" * 245)(take)
    with pytest.raises(AppLoadError, match="the name of its queue is too long"):
        compile_handlers(handlers)
    shorter = Handlers()
    shorter.consume("q" * 245, retry=None)(take)
    assert compile_handlers(shorter)[0].retry_steps_ms == ()


async def takes_exception(payload: Exception) -> None: ...


async def takes_text_or_bytes(payload: str | bytes) -> None: ...


@pytest.mark.parametrize(("function", "shown"), [(takes_exception, "Exception"), (takes_text_or_bytes, "str | bytes")])
def test_payload_that_nothing_can_decode(function: Callable[..., Any], shown: str) -> None:
    text = fault(function)
    assert text.startswith(f"handler '{function.__name__}' takes its payload as {shown}, which nothing can decode (")
    assert text.endswith("use " + TAKEN + ".")


async def takes_bounded(payload: Annotated[int, Meta(ge=1)]) -> None: ...


def test_constraint_of_an_annotation_is_checked() -> None:
    decode = compiled(takes_bounded).decode
    assert decode(delivery(), b"1") == 1
    with pytest.raises(DecodeError):
        decode(delivery(), b"0")


async def unresolved(payload: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def test_annotation_that_cannot_be_resolved() -> None:
    assert fault(unresolved).startswith(
        "handler 'unresolved' has an annotation that cannot be resolved: name 'Nowhere'"
    )


async def nothing() -> None: ...


async def three(payload: dict[str, Any], ctx: Context, more: int) -> None: ...


async def star(*payload: Any) -> None: ...


async def keyword(payload: dict[str, Any], *, needed: int) -> None: ...


@pytest.mark.parametrize("function", [nothing, three, star, keyword])
def test_other_parameters(function: Callable[..., Any]) -> None:
    assert "must take the payload and, if wanted, a Context; nothing else. Write it like" in fault(function)


async def wrong_second(payload: dict[str, Any], delivery: Delivery) -> None: ...


def test_second_parameter_that_is_no_context() -> None:
    text = "handler 'wrong_second' must annotate its second parameter 'delivery' as mxworker.Context."
    assert fault(wrong_second) == text


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"concurrency": 0}, "has concurrency=0; it must be from 1 to 65535"),
        ({"concurrency": 65536}, "has concurrency=65536; it must be from 1 to 65535"),
        ({"prefetch": 0}, "has prefetch=0; it must be from 1 to 65535"),
        ({"prefetch": 65536}, "has prefetch=65536; it must be from 1 to 65535"),
        ({"timeout": 0}, "has timeout=0; it must be above 0 seconds"),
        ({"timeout": -1.5}, "has timeout=-1.5; it must be above 0 seconds"),
        ({"timeout": math.nan}, "has timeout=nan; it must be above 0 seconds"),
        ({"objective": -1}, "has objective=-1; it must be above 0 seconds"),
        ({"objective": math.nan}, "has objective=nan; it must be above 0 seconds"),
        ({"objective": "0s"}, "has objective=0.0; it must be above 0 seconds"),
        ({"objective": "9000h"}, "has objective=32400000.0; it must be at most 31536000 seconds, a year"),
    ],
)
def test_number_out_of_bounds(said: dict[str, Any], expected: str) -> None:
    assert fault(take, **said) == f"handler 'take' {expected}."


def test_operator_s_number_is_checked_too() -> None:
    with pytest.raises(AppLoadError, match="prefetch=0"):
        compiled(take, Overrides(prefetch=0))


def test_fault_of_a_wrapped_function_names_the_function_itself() -> None:
    @functools.wraps(takes_exception)
    async def wrapper(*arguments: Any) -> None:
        await takes_exception(*arguments)

    assert "takes its payload as Exception" in fault(wrapper)


# ---- codecs


def read_x(body: bytes) -> Any:
    return {"read": body}


def test_codec_serves_all_handlers_whatever_was_registered_first() -> None:
    handlers, included = Handlers(), Handlers()
    handlers.consume("first")(take)
    handlers.codec("application/x", read_x)
    handlers.consume("second")(take)
    included.consume("third")(take)
    handlers.include(included)
    for handler in compile_handlers(handlers):
        assert handler.decode(delivery(raw_properties(content_type=b"application/x")), b"1") == {"read": b"1"}


def test_content_type_has_one_codec() -> None:
    handlers = Handlers()
    handlers.codec("application/x", read_x)
    with pytest.raises(ValueError, match="'Application/X' has a codec already"):
        handlers.codec("Application/X", read_x)


def test_codec_that_makes_bodies_is_a_serializer() -> None:
    handlers = Handlers()
    handlers.codec("application/x", read_x)
    handlers.codec("application/Y", read_x, encode=repr)  # type: ignore[arg-type]
    assert handlers.serializers == {"application/Y": repr}


# ---- the queue


def test_quorum_queue_is_declared_with_these_arguments_for_ever() -> None:
    """Frozen: RabbitMQ answers 406 to a declaration that differs from what exists."""
    assert Queue("orders").declared_arguments() == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 2147483647,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "orders.dlq",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_classic_queue_is_declared_with_these_arguments_for_ever() -> None:
    assert Queue("orders", type="classic").declared_arguments() == {
        "x-queue-type": "classic",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "orders.dlq",
    }


def test_queue_without_dead_letters() -> None:
    assert Queue("orders", dead_letter=False).declared_arguments() == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 2147483647,
    }


@pytest.mark.parametrize(("said", "meant"), [("classic", "quorum"), ("quorum", "classic")])
def test_type_among_the_arguments_counts(said: Any, meant: Any) -> None:
    """A quorum queue of that kind needs its delivery limit, too."""
    queue = Queue("orders", type=said, arguments={"x-queue-type": meant})
    assert queue.type == meant
    assert queue.declared_arguments() == Queue("orders", type=meant).declared_arguments()


@pytest.mark.parametrize("server", ["RabbitMQ 4.0.5", "RabbitMQ 4.3.0+rc.1", "RabbitMQ 10.1.0"])
@pytest.mark.parametrize("declare", ["passive", "off"])
def test_limit_of_a_queue_that_others_declare_is_in_doubt_from_rabbitmq_4_on(server: str, declare: Any) -> None:
    doubt = Queue("orders.eu", declare=declare).doubt_of_limit(server)
    assert doubt is not None
    assert f"queue 'orders.eu' is not declared by mxworker, so its delivery limit is not known. On {server} a" in doubt
    policy = """rabbitmqctl set_policy --apply-to quorum_queues mxworker '^orders\\.eu([.].+)?$' """
    assert f"""{policy}'{{"delivery-limit": 2147483647}}'""" in doubt
    said = f'Queue("orders.eu", declare="{declare}", arguments={{"x-delivery-limit": 2147483647}})'
    assert doubt.endswith(said)
    said_so: Queue = eval(said, {"Queue": Queue})  # the line as a reader would copy it
    assert said_so.doubt_of_limit(server) is None


@pytest.mark.parametrize(
    ("queue", "server"),
    [
        (Queue("orders"), "RabbitMQ 4.0.5"),
        (Queue("orders", type="classic", declare="passive"), "RabbitMQ 4.0.5"),
        (Queue("orders", declare="passive"), "RabbitMQ 3.13.7"),
        (Queue("orders", declare="passive"), "LavinMQ 2.1.0"),
        (Queue("orders", declare="off"), "unknown broker"),
    ],
)
def test_limit_is_in_no_doubt_where_it_is_ours_or_there_is_none(queue: Queue, server: str) -> None:
    assert queue.doubt_of_limit(server) is None


def test_further_arguments_replace_ours() -> None:
    queue = Queue("orders", arguments={"x-max-length": 10, "x-overflow": "drop-head", "x-delivery-limit": 5})
    assert queue.declared_arguments()["x-max-length"] == 10
    assert queue.declared_arguments()["x-delivery-limit"] == 5
    assert queue.declared_arguments()["x-overflow"] == "drop-head"


def test_declared_arguments_are_a_copy() -> None:
    queue = Queue("orders", arguments={"x-max-length": 10})
    queue.declared_arguments().clear()
    assert queue.declared_arguments()["x-max-length"] == 10
    assert queue.arguments == {"x-max-length": 10}


def test_single_active_consumer_is_known() -> None:
    assert not Queue("orders").single_active_consumer
    assert Queue("orders", arguments={"x-single-active-consumer": True}).single_active_consumer
    assert Queue("orders", single_active_consumer=True).declared_arguments()["x-single-active-consumer"] is True


def test_priorities_are_arguments_where_they_belong() -> None:
    queue = Queue("orders", type="classic", dead_letter=False, max_priority=10, consumer_priority=-1)
    assert queue.declared_arguments() == {"x-queue-type": "classic", "x-max-priority": 10}
    assert queue.consumer_arguments() == {"x-priority": -1}
    assert Queue("orders").consumer_arguments() == {}


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_priority": 5}, "a quorum queue takes no max_priority. What it does with priorities depends on"),
        ({"max_priority": 0, "type": "classic"}, "max_priority is from 1 to 255, not 0"),
        ({"max_priority": 256, "type": "classic"}, "max_priority is from 1 to 255, not 256"),
        ({"consumer_priority": 2**31}, "consumer_priority 2147483648 is no 32-bit integer"),
        ({"consumer_priority": 0.5}, "consumer_priority 0.5 is no 32-bit integer"),
    ],
)
def test_priority_that_cannot_work_is_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^queue 'orders': {re.escape(said)}"):
        Queue("orders", **parameters)


def test_queue_name_leaves_room_for_the_dead_letter_queue() -> None:
    assert len(Queue("x" * 251).dead_letter_name) == 255
    with pytest.raises(ValueError, match="1 to 251"):
        Queue("x" * 252)
    with pytest.raises(ValueError, match="1 to 251"):
        Queue("")


@pytest.mark.parametrize("name", ["orders*", "bestellüng", "a\nb", "a'b", "a\x00b"])
def test_name_that_the_amqp_library_cannot_send_is_refused_at_once(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        Queue(name)
    with pytest.raises(ValueError, match="letters, digits"):
        Queue("orders", bind=[(name, "key")])


@pytest.mark.parametrize("name", ["orders", "a.b-c_d", "A1:@#,/+ x", "amq.topic"])
def test_name_that_the_amqp_library_can_send_is_taken(name: str) -> None:
    assert Queue(name, declare="passive", bind=[(name, "any kéy *")]).name == name


def test_unknown_type_and_way_to_declare() -> None:
    with pytest.raises(ValueError, match="type is 'quorum' or 'classic', not 'mqtt'"):
        Queue("orders", type="mqtt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="declare is 'ensure', 'passive' or 'off', not 'no'"):
        Queue("orders", declare="no")  # type: ignore[arg-type]
