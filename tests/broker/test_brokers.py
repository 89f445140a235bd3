"""Several brokers in the list: when the one in use dies, work goes on at the next."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.broker.apps import Recorded
from tests.harness.waiting import wait_until
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


def test_work_goes_on_at_the_second_broker(
    own_node: Callable[..., Node], second_url: str, queue_name: str, tmp_path: Path
) -> None:
    first_node = own_node()
    first = Recorded(first_node.url, tmp_path, queue_name)
    second = Recorded(second_url, tmp_path, queue_name)
    first.declare()
    first.publish(2_000)
    second.declare()
    second.ids = list(first.ids)  # so that the ids at the second broker are others
    second.publish(500)
    expected = set(second.ids) - set(first.ids)
    with first.service(
        "--workers=2", "--log-level=debug", work_s=0.05, url=f"{first_node.url} {second_url}"
    ) as service:
        service.wait_ready()
        wait_until(lambda: first.handled > 200, 30, "some work")
        assert not expected & first.finished_ids, "the second one is not used while the first is well"
        workers = service.workers()
        first_node.kill()
        wait_until(lambda: expected & first.finished_ids, ELSEWHERE_WITHIN_S, "work at the second broker")
        wait_until(lambda: expected <= first.finished_ids, 60, "every id of the second broker")
        assert service.workers() == workers
        service.stop()
        assert service.exit_code == 0
        log = service.log_text()
    assert f"lost the connection to amqp://guest:***@127.0.0.1:{first_node.port}/" in log
    assert SECRET not in log
    assert WRITTEN_SECRET not in log
