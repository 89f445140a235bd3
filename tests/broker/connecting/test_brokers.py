"""Several brokers in the list: when the one in use dies, work goes on at the next."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest

from mxworker import Publisher
from tests.broker.apps import Relayed
from tests.broker.publishers import Reported
from tests.harness.waiting import until
from tests.rabbit.node import Node

ELSEWHERE_WITHIN_S = 10
SECRET = "S3cr3t/x"
WRITTEN_SECRET = "S3cr3t%2Fx"


@pytest.fixture
def second_url(node: Node) -> Iterator[str]:
    """The shared node, for a user of the test's own."""
    user = f"user-{uuid.uuid4().hex[:8]}"
    node.ctl("add_user", user, SECRET)
    node.ctl("set_permissions", user, ".*", ".*", ".*")
    yield node.url.replace("guest:guest", f"{user}:{WRITTEN_SECRET}")
    node.ctl("delete_user", user)


async def test_work_goes_on_at_the_second_broker(
    own_node: Callable[..., Node], second_url: str, queue_name: str, tmp_path: Path
) -> None:
    """Consuming and publishing in a worker, and publishing outside of one: all at once, in one load."""
    first_node = own_node()
    urls = (first_node.url, second_url)
    first, second = (Relayed(url, tmp_path, queue_name) for url in urls)
    first.declare()
    second.declare()
    second.input.publish(1)  # by which it is seen that nobody consumes there
    (lure,) = second.input.ids
    published = Reported()
    numbers = count()
    with first.service("--workers=2", "--log-level=debug", awaits=True, work_s=0.02, url=" ".join(urls)) as service:
        await asyncio.to_thread(service.wait_ready)
        workers = service.workers()
        async with Publisher.connect(*urls) as publisher, asyncio.TaskGroup() as load:
            loading = [load.create_task(_publish(publisher, published, queue_name, numbers)) for _ in range(20)]
            await until(lambda: len(first.input.finished_ids) > 200, 30, "some work")
            assert lure not in first.input.finished_ids, "the second one is not used while the first is well"
            await asyncio.to_thread(first_node.kill)
            since = next(numbers)
            await until(
                lambda: _since(since, published.confirmed) and lure in first.input.finished_ids,
                ELSEWHERE_WITHIN_S,
                "publishes and work at the second",
            )
            await until(lambda: len(_since(since, first.input.finished_ids)) > 500, 30, "much work at the second")
            for task in loading:
                task.cancel()
        expected = _since(since, published.confirmed)
        await until(lambda: expected <= first.input.finished_ids, 30, "every message of the second broker")
        assert service.workers() == workers
        await asyncio.to_thread(service.stop)
        assert service.exit_code == 0
        log = service.log_text()
    outputs = second.outputs()
    second.delete()
    assert expected | {lure} <= outputs.keys()
    assert f"lost the connection to amqp://guest:***@127.0.0.1:{first_node.port}/" in log
    assert SECRET not in log
    assert WRITTEN_SECRET not in log


async def _publish(publisher: Publisher, published: Reported, queue: str, numbers: Iterator[int]) -> None:
    """Publish one message after the other, with the number in its body, until cancelled."""
    for number in numbers:
        await published.publish(publisher, f"outside-{number}", queue)


def _since(number: int, bodies: Iterable[str]) -> set[str]:
    """Return the bodies from the load outside that were begun after `number`."""
    prefix = "outside-"
    return {body for body in bodies if body.startswith(prefix) and int(body.removeprefix(prefix)) > number}
