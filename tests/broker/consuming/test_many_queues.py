"""Queues on a real broker of which one is slow: declaring it takes longer than the wait for a connection."""

from __future__ import annotations

from pathlib import Path

from tests.harness.service import Service, mxworker_run, write_app
from tests.rabbit.client import Client

QUEUES = 5
SIDE_QUEUES = ("", ".dlq")

APP = """
    import asyncio

    from mxworker import Handlers
    from mxworker.amqp.consuming.subscription import Subscription

    handlers = Handlers()
    at_once = Subscription.open.__func__


    async def late(cls, connection, queue, *arguments, **options):
        if queue.name.endswith(".0"):
            await asyncio.sleep(8)  # longer than the wait for a connection
        return await at_once(cls, connection, queue, *arguments, **options)


    Subscription.open = classmethod(late)


    async def order(payload: dict) -> None: ...


    for number in range(QUEUES):
        handlers.consume(f"NAME.{number}", retry=None)(order)
"""


def test_start_goes_on_while_queues_are_declared(
    broker_url: str, queue_name: str, tmp_path: Path, admin: Client
) -> None:
    app = write_app(tmp_path, APP.replace("QUEUES", str(QUEUES)).replace("NAME", queue_name))
    command = mxworker_run(app, "--workers=1", "--connect-wait=5s", "--burst", app_dir=tmp_path)
    try:
        with Service(command, tmp_path, env={"MXWORKER_BROKER_URL": broker_url}) as service:
            assert service.wait_exit(120) == 0, service.log_text()
            assert "Error" not in service.log_text()
    finally:
        for number in range(QUEUES):
            for side in SIDE_QUEUES:
                admin.delete(f"{queue_name}.{number}{side}")
