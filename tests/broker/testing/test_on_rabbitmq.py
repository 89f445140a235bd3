"""`mx_broker` with the URL of a RabbitMQ: the same test, in real time, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

from mxworker.testing import BrokerUnderTest
from mxworker.testing.blocking_client import BlockingClient
from mxworker.testing.brokers_under_test import RabbitFarEnd

APP = """
from mxworker import Handlers, RetryPolicy

handlers = Handlers()

@handlers.consume("{queue}", retry=RetryPolicy(max_retries=1, delays=(0.2,)))
async def order(payload: dict) -> None:
    raise ConnectionError("the bank is away")
"""


def test_same_test_runs_on_a_rabbitmq_and_leaves_no_queue(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    queue = queue_name
    (tmp_path / "app.py").write_text(APP.format(queue=queue))
    mx_broker = BrokerUnderTest(lambda client: RabbitFarEnd(broker_url, client), tmp_path)
    mx_broker.timeout = 60.0
    try:
        mx_broker.run("app:handlers", app_dir=tmp_path)
        mx_broker.publish(queue, {})
        mx_broker.advance(0.2)
        (dead,) = mx_broker.wait_for(f"{queue}.dlq")
        assert dead.headers["mx-attempts"] == 2
    finally:
        mx_broker.finish(is_checked=True)
    client = BlockingClient(broker_url)
    try:
        assert [client.ready(f"{queue}{end}") for end in ("", ".dlq", ".retry.200")] == [None, None, None]
    finally:
        client.close()
