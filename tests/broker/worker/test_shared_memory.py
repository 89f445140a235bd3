"""What workers share with the master: all that the library needs is imported before the fork."""

from __future__ import annotations

import json
from pathlib import Path

from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

APP = """
    import json
    import sys
    from pathlib import Path

    from tests.harness.saving import save_by_rename

    at_start = set(sys.modules)

    from mxworker import Context, Handlers

    handlers = Handlers()


    @handlers.consume("QUEUE")
    async def order(payload: dict, ctx: Context) -> None:
        await ctx.publisher.publish(payload, routing_key="QUEUE.retry.1000", compression="gzip")
        async with ctx.channel():
            pass
        save_by_rename(Path("modules"), json.dumps([sorted(at_start), sorted(set(sys.modules) - at_start)]))
"""


def test_worker_imports_nothing_after_the_fork_but_the_app(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    app = write_app(tmp_path, APP.replace("QUEUE", queue_name))
    modules = tmp_path / "modules"
    env = {"MXWORKER_BROKER_URL": broker_url}
    with Service(mxworker_run(app, "--workers=1", app_dir=tmp_path), tmp_path, env=env) as service:
        service.wait_ready()
        with Client(broker_url) as client:
            client.publish(queue_name, [b"{}"])
        wait_until(modules.exists, 30, "the handler")
    before, after = json.loads(modules.read_text())
    assert after == []
    assert {"aio_pika", "asyncio", "ssl", "encodings.idna"} <= set(before)
