"""A task of a handler that calls sys.exit fails the message of that handler, and ends no process."""

from __future__ import annotations

from pathlib import Path
from signal import SIGTERM

import pytest

from tests.broker.failing import dead_letters
from tests.harness.processes import children
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import until
from tests.rabbit.client import Client

WAYS = ("task", "wait_for", "gather", "group")
PATIENCE_S = 60.0

APP = """
    import asyncio
    import os
    import sys

    from mxworker import Handlers

    handlers = Handlers()


    async def exits():
        sys.exit(3)


    async def interrupts():
        raise KeyboardInterrupt


    async def waits(how):
        match how:
            case "task":
                await asyncio.create_task(exits())
            case "wait_for":
                await asyncio.wait_for(asyncio.ensure_future(exits()), 60)
            case "gather":
                await asyncio.gather(interrupts(), asyncio.sleep(60))
            case "group":
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(exits())
                    await asyncio.sleep(60)
        os.write(1, f"{how} {os.getpid()}\\n".encode())


    if os.environ["KIND"] == "cpu":

        @handlers.consume(os.environ["QUEUE"], cpu=True, retry=None)
        def order(how: str) -> object:
            return waits(how)

    else:

        @handlers.consume(os.environ["QUEUE"], retry=None)
        async def order(how: str) -> None:
            await waits(how)
"""


@pytest.mark.parametrize("kind", ["async", "cpu"])
async def test_exit_in_a_task_fails_the_message_and_ends_no_process(
    kind: str, broker_url: str, queue_name: str, tmp_path: Path, admin: Client
) -> None:
    env = {"MXWORKER_BROKER_URL": broker_url, "QUEUE": queue_name, "KIND": kind}
    command = mxworker_run(write_app(tmp_path, APP), "--workers=1", app_dir=tmp_path)
    with Service(command, tmp_path, env=env) as service:
        service.wait_ready()
        (worker,) = service.workers()
        admin.publish(queue_name, [b"first"])
        await until(lambda: "first" in service.output_text(), PATIENCE_S, "the first message to be handled")
        processes = [worker, *children(worker.pid)]
        admin.publish(queue_name, [way.encode() for way in WAYS])
        dead = await dead_letters(admin, queue_name, len(WAYS))
        assert sorted(dead) == sorted(WAYS)
        admin.publish(queue_name, [b"last"])
        await until(lambda: "last" in service.output_text(), PATIENCE_S, "the last message to be handled")
        assert all(process.is_alive for process in processes)
        assert [worker, *children(worker.pid)] == processes
        failed = service.events("delivery_ended")
        assert {event["message"].rpartition(": ")[2] for event in failed} == {"3", "KeyboardInterrupt"}
        assert {event["error_type"] for event in failed} == {"SystemExit", "KeyboardInterrupt"}
        told = service.events("task_exit")
        assert told, service.log_text()
        assert all("app.py" in event["place"] and "app.py" in event["traceback"] for event in told)
        assert not any("uvloop" in event["traceback"] or "asyncio/" in event["traceback"] for event in [*told, *failed])
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
