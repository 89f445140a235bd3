"""The first program of README.md works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from mxworker import Context, Handlers, Queue
from mxworker.errors import Unroutable
from tests.broker.workers import running
from tests.harness.repository import REPOSITORY
from tests.harness.service import Service, mxworker_run
from tests.harness.waiting import until, wait_until
from tests.rabbit.client import Client

FIRST = re.compile(r"^## The shortest program$.*?^```python$\n(?P<source>.*?)^```$", re.DOTALL | re.MULTILINE)


def test_first_program_works_as_copied(broker_url: str, tmp_path: Path) -> None:
    found = FIRST.search((REPOSITORY / "README.md").read_text())
    assert found is not None
    (tmp_path / "app.py").write_text(found["source"])
    with Client(broker_url) as client:
        for queue in ("orders", "orders.done"):
            delete(client, queue)
        command = mxworker_run("app:handlers", "--workers=2", app_dir=tmp_path)
        with Service(command, tmp_path, env={"MXWORKER_BROKER_URL": broker_url}) as service:
            service.wait_ready()
            client.publish("orders", [b'{"id": 1, "total": 5}', b'{"id": 2, "total": -5}'])
            wait_until(lambda: client.counts("orders.done").messages == 1, 30, "the order that is done")
            wait_until(lambda: client.counts("orders.dlq").messages == 1, 30, "the order that was refused")
            service.stop()
            assert service.exit_code == 0
            assert ": 1 acked, 1 rejected" in service.log_text()
        done = client.get("orders.done")
        assert done is not None
        assert done.body == b'{"id":1}'
        for queue in ("orders", "orders.done"):
            delete(client, queue)


def delete(client: Client, queue: str) -> None:
    for name in (queue, f"{queue}.dlq", *(f"{queue}.retry.{step}" for step in (1000, 5000, 25000))):
        client.delete(name)


async def test_publish_to_a_queue_that_nobody_declares_says_how_there_is_one(broker_url: str, queue_name: str) -> None:
    handlers = Handlers()
    told: list[str] = []

    @handlers.consume(queue_name, retry=None, on_error="ack")
    async def forward(payload: bytes, ctx: Context) -> None:
        try:
            await ctx.publisher.publish(payload, routing_key=f"{queue_name}.next")
        except Unroutable as error:
            told.append(str(error))

    with Client(broker_url) as client:
        async with running(broker_url, handlers):
            client.publish(queue_name, [b"x"])
            await until(lambda: told, 20, "the publish to fail")
        delete(client, queue_name)
    assert told == [
        f"publish to queue '{queue_name}.next' was returned (312 NO_ROUTE): there is no queue of that name. A queue "
        f'exists once a worker consumes it, or handlers.declare(Queue("{queue_name}.next")) declares it.'
    ]


def test_declared_queues_are_those_of_the_family_that_no_handler_consumes() -> None:
    outer, inner = Handlers(), Handlers()
    outer.declare("done")
    assert outer.declare(Queue("orders", type="classic")).type == "classic"
    inner.declare("done")
    inner.declare("failed")
    inner.consume("orders")(lambda payload: None)
    outer.include(inner)
    assert [queue.name for queue in outer.declared_queues] == ["done", "failed"]
