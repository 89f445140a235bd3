"""The code of docs/how-to/celery.md and aio-pika.md handles what is in the queues of Celery and aio-pika."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pamqp import commands

from mxworker.devbroker.process import start_broker
from tests.broker.workers import running
from tests.harness.pages import blocks
from tests.harness.repository import REPOSITORY
from tests.harness.waiting import until
from tests.rabbit.client import Client

# https://docs.celeryq.dev/en/stable/internals/protocol.html, version 2
FOR_CELERY = commands.Basic.Properties(
    content_type="application/json", content_encoding="utf-8", headers={"lang": "py", "task": "shop.charge", "id": "c1"}
)
CELERYS = json.dumps([["o1", 500], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]).encode()


@pytest.fixture
def url() -> Iterator[str]:
    with start_broker() as broker:
        yield broker.url


@pytest.mark.parametrize(
    ("page", "queue", "body", "properties", "then", "sent"),
    [
        ("celery", "celery", CELERYS, FOR_CELERY, "payments", {"order_id": "o1", "cents": 500}),
        ("aio-pika", "orders", b'{"id": 7}', commands.Basic.Properties(), "orders.done", {"id": 7}),
    ],
    ids=["celery", "aio-pika"],
)
async def test_new_code_handles_what_the_old_one_was_sent(
    page: str, queue: str, body: bytes, properties: commands.Basic.Properties, then: str, sent: dict[str, Any], url: str
) -> None:
    *_, last = (block for block in blocks(REPOSITORY / "docs" / "how-to" / f"{page}.md") if block.language == "python")
    names: dict[str, Any] = {}
    exec(last.text, names)
    with Client(url) as client:
        client.declare(queue)  # classic, without dead-lettering
        client.declare(then)
        client.publish(queue, [body], properties)
        async with running(url, names["handlers"]):
            await until(lambda: client.counts(then).messages == 1, 30, f"the message in {then}")
        received = client.get(then)
        assert received is not None
        assert json.loads(received.body) == sent
        assert client.counts(queue).messages == 0
