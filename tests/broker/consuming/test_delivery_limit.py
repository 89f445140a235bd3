"""What comes back to a quorum queue stays there, however often: the default limit of RabbitMQ 4 is 20 times."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from mxworker import Handlers, Queue, Reject, RetryPolicy
from mxworker.amqp.consuming import topology
from mxworker.board.metrics_layout import Outcome
from tests.broker.failing import Notes, dead_letters
from tests.broker.workers import running
from tests.harness.retries import FAST
from tests.harness.waiting import until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

MORE_THAN_THE_DEFAULT = 25
SOON_S = 60.0
HOUR_S = 3600
DOUBT = "is not declared by mxworker, so its delivery limit is not known"


def give_back(url: str, queue: str) -> None:
    """Take what is in `queue`, one message, and give it back, more often than RabbitMQ 4 has as its default."""
    for _ in range(MORE_THAN_THE_DEFAULT):
        with Client(url) as client:
            client.hold(queue, 1)


def limits(node: Node) -> bool:
    """Whether a quorum queue of this broker has a limit by default."""
    return int(node.ctl("version").split(".")[0]) >= 4


async def test_message_that_people_look_at_often_stays_in_each_queue_beside(
    node: Node, queue_name: str, admin: Client
) -> None:
    handlers = Handlers()
    besides = ("dlq", "quarantine", f"retry.{HOUR_S}000")

    @handlers.consume(queue_name, retry=RetryPolicy(delays=(HOUR_S,), jitter=False))
    async def refuse(body: str) -> Reject:
        return Reject("no")

    async with running(node.url, handlers) as worker:
        await topology.declare_quarantine(worker.service.parts.pool.consume_link, Queue(queue_name))
        await worker.settle_one(admin, queue_name, Outcome.REJECT)
    try:
        for beside in besides[1:]:
            admin.publish(f"{queue_name}.{beside}", [b"1"])
        for beside in besides:
            give_back(node.url, f"{queue_name}.{beside}")
            await until(lambda name=f"{queue_name}.{beside}": admin.counts(name).messages == 1, SOON_S, "it to be back")
    finally:
        admin.delete(f"{queue_name}.{besides[-1]}")


@pytest.mark.parametrize(
    ("parameters", "is_warned"),
    [
        ({"declare": "passive"}, True),
        ({"declare": "off"}, True),
        ({"declare": "passive", "arguments": {"x-delivery-limit": 2**31 - 1}}, False),
        ({"declare": "ensure"}, False),
    ],
    ids=str,
)
async def test_queue_of_others_whose_limit_cannot_be_known_is_warned_of_once(
    parameters: dict[str, Any],
    is_warned: bool,
    node: Node,
    queue_name: str,
    admin: Client,
    caplog: pytest.LogCaptureFixture,
) -> None:
    handlers = Handlers()

    @handlers.consume(Queue(queue_name, **parameters), retry=None)
    async def take(body: str) -> None:
        pass

    if parameters["declare"] != "ensure":
        admin.declare(queue_name, arguments={"x-queue-type": "quorum"})
        admin.declare_quorum(f"{queue_name}.dlq")
    async with running(node.url, handlers) as worker:
        pass
    assert sum(DOUBT in message for message in caplog.messages) == (is_warned and limits(node))
    caplog.clear()
    async with running(node.url, handlers, board=worker.board):
        pass
    assert not any(DOUBT in message for message in caplog.messages), "said once, not by each worker that follows"


async def test_policy_that_the_warning_names_raises_the_limit(node: Node, queue_name: str, admin: Client) -> None:
    if not limits(node):
        pytest.skip("this RabbitMQ has no default limit, and nothing to warn of")
    doubt = Queue(queue_name, declare="passive").doubt_of_limit("RabbitMQ 4.0.5")
    assert doubt is not None
    command = re.search(r"rabbitmqctl (set_policy .+) \(or declare", doubt)
    assert command is not None
    admin.declare(queue_name, arguments={"x-queue-type": "quorum"})
    node.ctl(*shlex.split(command[1]))
    try:
        admin.publish(queue_name, [b"1"])
        give_back(node.url, queue_name)
        await until(lambda: admin.counts(queue_name).messages == 1, SOON_S, "it to be back")
    finally:
        node.ctl("clear_policy", "mxworker")


@pytest.fixture
def mute_url(node: Node) -> Iterator[str]:
    """The URL for a user who may do everything but publish to the default exchange."""
    with node.user(may_write="^(?!amq[.]default$).*") as url:
        yield url


@pytest.mark.parametrize("on_error", ["retry", "requeue"])
async def test_failing_message_of_a_user_who_may_not_publish_copies_is_kept(
    on_error: Any, mute_url: str, node: Node, queue_name: str, admin: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """It came back more often than RabbitMQ 4 lets it by default; its handler fails on, and at last it does not."""
    handlers, fails = Handlers(), True
    queue = Queue(queue_name)
    ran = 0

    @handlers.consume(queue, retry=FAST, on_error=on_error)
    async def order(body: str) -> None:
        nonlocal ran
        ran += 1
        if fails:
            raise ValueError("boom")

    async with running(node.url, handlers):
        pass  # to declare a queue that dead-letters needs the right to publish there
    admin.publish(queue_name, [b"1"])
    give_back(node.url, queue_name)
    async with running(mute_url, handlers) as worker:
        await until(lambda: ran >= 2, SOON_S, "it to be tried again")
        fails = False
        await until(lambda: worker.count(Outcome.ACK) == 1, SOON_S, "it to be handled")
    assert admin.counts(queue.dead_letter_name).messages == 0
    told = [message for message in caplog.messages if "goes back to its queue" in message]
    assert told
    assert "ACCESS_REFUSED" in told[0]


async def test_rejected_message_of_a_user_who_may_not_publish_copies_is_a_dead_letter_of_the_brokers(
    mute_url: str, node: Node, queue_name: str, admin: Client
) -> None:
    handlers, notes = Handlers(), Notes()

    @handlers.consume(queue_name, retry=FAST)
    async def order(body: str) -> Reject:
        notes.at[body].append(0.0)
        return Reject("no")

    async with running(node.url, handlers):
        pass
    async with running(mute_url, handlers):
        admin.publish(queue_name, [b"1"])
        await dead_letters(admin, queue_name, 1)
    assert notes.executions == 1
