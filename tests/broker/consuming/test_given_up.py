"""One queue over which the broker ends the whole connection costs the others two connections, not their service."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from pamqp import commands
from pamqp import frame as frames

from mxworker import Handlers, Queue
from mxworker.board.lifecycle import WorkerState
from mxworker.errors import ExitCode, QueueGivenUp, TopologyRefused
from tests.broker.workers import running
from tests.harness.faults import TO_BROKER, TO_CLIENT, Rule
from tests.harness.frames import Frame, MethodId
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

SOON_S = 60.0
BASIC_CONSUME: MethodId = (60, 20)
UNNAMED = (541, "INTERNAL_ERROR")


@pytest.fixture
def culprit(queue_name: str, admin: Client) -> Iterator[str]:
    """A second queue, which sorts after the first."""
    name = f"{queue_name}-culprit"
    yield name
    for beside in ("", ".dlq", ".quarantine"):
        admin.delete(f"{name}{beside}")


@pytest.fixture
def stream(queue_name: str, admin: Client) -> str:
    """A stream."""
    admin.declare(queue_name, arguments={"x-queue-type": "stream"})
    return queue_name


def ending_connections(proxy: Proxy, queue: str, reason: tuple[int, str]) -> Rule:
    """End every connection on which somebody consumes `queue`, as the broker does after a hard error."""
    close = frames.marshal(commands.Connection.Close(*reason, 60, 20), 0)

    def answer(frame: Frame) -> bytes:
        if queue.encode() in frame.raw:
            proxy.inject(TO_CLIENT, close)
            return b""
        return frame.raw

    return proxy.on(TO_BROKER, BASIC_CONSUME, answer)


@pytest.mark.parametrize("is_named", [True, False], ids=["named", "unnamed"])
async def test_the_others_go_on_without_the_queue_that_ends_the_connection(
    is_named: bool, broker_url: str, queue_name: str, culprit: str, admin: Client
) -> None:
    handlers = Handlers()
    handled: Counter[str] = Counter()

    async def take(body: str) -> None:
        handled[body] += 1

    for queue in (queue_name, culprit):
        handlers.consume(queue, retry=None)(take)
    async with proxy_to(broker_url) as proxy, running(proxy.url(broker_url), handlers) as worker:
        innocent, guilty = worker.service.parts.consumers
        reason = (540, f"NOT_IMPLEMENTED - queue '{culprit}' in vhost '/'") if is_named else UNNAMED
        rule = ending_connections(proxy, culprit, reason)
        guilty.rebuild("the test")
        await until(lambda: isinstance(guilty.last_error, QueueGivenUp), SOON_S, "the queue to be given up")
        await until(lambda: innocent.is_consuming, SOON_S, "the other to be consumed")
        hits = rule.hits
        admin.publish(queue_name, [b"%d" % number for number in range(50)])
        await until(lambda: len(handled) == 50, SOON_S, "the messages of the other")
        assert set(handled.values()) == {1}
        assert worker.service.state is WorkerState.DEGRADED
        assert innocent.is_consuming
        for fact in (f"queue '{culprit}'", str(reason[0]), "5 min", "ctl pause"):
            assert fact in str(guilty.last_error)
        assert rule.hits == hits
        proxy.remove(rule)
        guilty.try_again()
        await until(lambda: worker.service.state is WorkerState.READY, SOON_S, "the queue to be consumed again")
        admin.publish(culprit, [b"late"])
        await until(lambda: handled["late"], SOON_S, "its message")


async def test_queue_that_ends_the_connection_at_the_start_is_a_start_error(
    broker_url: str, queue_name: str, culprit: str
) -> None:
    handlers = Handlers()

    async def take(body: str) -> None:
        pass

    for queue in (queue_name, culprit):
        handlers.consume(queue, retry=None)(take)
    async with proxy_to(broker_url) as proxy:
        ending_connections(proxy, culprit, UNNAMED)
        async with running(proxy.url(broker_url), handlers, ExitCode.BROKER, wait_until_ready=False) as worker:
            service = worker.service
            await until(lambda: service.failure is not None, SOON_S, "the end of the start")
    assert isinstance(service.failure, QueueGivenUp)
    assert f"queue '{culprit}'" in str(service.failure)
    assert "541 INTERNAL_ERROR" in str(service.failure)


# ---- streams


@pytest.mark.parametrize("declare", ["ensure", "passive", "off"])
async def test_stream_is_refused_at_the_start_with_what_to_use(
    declare: str, broker_url: str, stream: str, admin: Client, node: Node
) -> None:
    handlers = Handlers()
    admin.publish(stream, [b"1"] * 10)
    admin.declare_quorum(f"{stream}.dlq", **{"x-delivery-limit": 2**31 - 1})

    @handlers.consume(Queue(stream, declare=declare), retry=None)  # type: ignore[arg-type]
    async def take(body: bytes) -> None:
        raise AssertionError("not to be called")

    with node.expect_precondition_failed():
        async with running(broker_url, handlers, ExitCode.BROKER, wait_until_ready=False) as worker:
            service = worker.service
            await until(lambda: service.failure is not None, SOON_S, "the end of the start")
    assert isinstance(service.failure, TopologyRefused)
    assert f"queue '{stream}' is a stream" in str(service.failure)
    assert "Use a quorum queue" in str(service.failure)
    assert "passive" not in str(service.failure)


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize("declare", ["passive", "off"])
async def test_queue_of_others_that_is_no_stream_is_consumed(
    declare: str, queue_type: str, broker_url: str, queue_name: str, admin: Client
) -> None:
    admin.declare(queue_name, arguments={"x-queue-type": queue_type})
    admin.declare_quorum(f"{queue_name}.dlq")
    handlers = Handlers()
    handled = []

    @handlers.consume(Queue(queue_name, declare=declare), retry=None)  # type: ignore[arg-type]
    async def take(body: bytes) -> None:
        handled.append(body)

    async with running(broker_url, handlers):
        admin.publish(queue_name, [b"1"])
        await until(lambda: handled == [b"1"], SOON_S, "the message")
