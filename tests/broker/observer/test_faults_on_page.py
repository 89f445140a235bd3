"""Under real faults the page of a real service names each with its reason; `make chaos` looks at it in a browser."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from typing import Any
from urllib.request import urlopen

import pytest

from tests.harness import chromium
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

WITHIN_S = 120
ALARM = ("set_vm_memory_high_watermark", "0.00001")
ALL_CLEAR = ("set_vm_memory_high_watermark", "0.4")
WORK_S = 20  # under load before the first fault, so that curves and rates have something to show

pytestmark = pytest.mark.skipif("not config.getoption('--full')", reason="a minute of faults, for make chaos")

APP = """
    import asyncio
    import os
    import random
    import signal
    from pathlib import Path

    from mxworker import Context, Handlers, Queue

    handlers = Handlers()
    holding = Path("holding")

    if Path("deadly").exists():
        os.kill(os.getpid(), signal.SIGSEGV)


    @handlers.consume("orders", concurrency=16, objective="5s")
    async def order(body: bytes, ctx: Context) -> None:
        while holding.exists():
            await asyncio.sleep(0.05)
        await asyncio.sleep(random.uniform(0, 0.1))
        if random.random() < 0.01:
            raise ConnectionResetError("the bank has hung up")
        await ctx.publisher.publish(body, routing_key="mails")


    @handlers.consume(Queue("mails", declare="passive", dead_letter=False), concurrency=32, retry=None)
    async def mail(body: bytes) -> None:
        await asyncio.sleep(random.uniform(0, 0.02))
"""


@dataclass
class Watched:
    """A service under load, what it says, and a browser to look at it."""

    service: Service
    node: Node
    folder: Path
    url: str
    browser: chromium.Chromium

    @property
    def view(self) -> dict[str, Any]:
        with urlopen(f"{self.url}status.json", timeout=30) as answer:
            return json.loads(answer.read())  # type: ignore[no-any-return]

    def wait_for(self, *words: str) -> dict[str, Any]:
        """Wait until the headline and the problems have these words, and look at the page then."""

        def told() -> str:
            view = self.view
            return "\n".join([view["state"]["text"], *(f"{each['what']}: {each['why']}" for each in view["problems"])])

        wait_until(lambda: all(word in told() for word in words), WITHIN_S, f"the page to tell {words}")
        return self.view

    def look(self, name: str) -> None:
        for width, dark in ((1280, False), (390, True)):
            with self.browser.open(self.url, width=width, dark=dark) as tab:
                tab.wait("document.getElementById('live').textContent.startsWith('Live')")
                assert tab.complaints == []
                assert not tab.evaluate("document.documentElement.scrollWidth > innerWidth")
                tab.screenshot(self.folder / f"{name}-{width}.png")


@pytest.fixture
def watched(own_node: Callable[..., Node], tmp_path: Path) -> Iterator[Watched]:
    node = own_node()
    with Client(node.url) as admin:
        admin.declare("mails")
    command = mxworker_run(write_app(tmp_path, APP), "--workers=2", "--http=127.0.0.1:0", app_dir=tmp_path)
    env = {"MXWORKER_BROKER_URL": node.url}
    with (
        chromium.started(tmp_path / "browser") as browser,
        Service(command, tmp_path, env=env) as service,
    ):
        service.wait_ready()
        url = json.loads(service.mxworker("status", "--json").stdout)["http"]
        yield Watched(service, node, tmp_path, url, browser)


def test_each_fault_is_named(watched: Watched, record_property: Callable[[str, str], None]) -> None:
    node, service, folder = watched.node, watched.service, watched.folder
    holding, deadly = folder / "holding", folder / "deadly"
    with Client(node.url) as admin:
        watched.wait_for("Working")
        watched.look("idle")
        ends_at = time.monotonic() + WORK_S
        while time.monotonic() < ends_at:
            admin.publish("orders", [b"1"] * 50)
            time.sleep(0.5)
        watched.look("load")
        holding.touch()
        admin.publish("orders", [b"1"] * 500)
        admin.delete("mails")
        deadly.touch()
        watched.service.kill_worker(random.Random(0))
    node.ctl(*ALARM)
    holding.unlink()
    watched.wait_for(
        "Degraded", "queue mails is not consumed: ", "NOT_FOUND", "crash-loops: ", "SIGSEGV", "no publishes"
    )
    watched.look("degraded")

    node.ctl(*ALL_CLEAR)
    deadly.unlink()
    with Client(node.url) as admin:
        admin.declare("mails")
    watched.wait_for("Working")

    node.kill()
    watched.wait_for("Not consuming: there is no connection to the broker since ", "connection refused")
    watched.look("lost-broker")
    node.start()
    watched.wait_for("Working")

    service.signal(SIGSTOP)
    watched.wait_for("Unsupervised: the master process has said nothing for ")
    watched.look("unsupervised")
    service.signal(SIGCONT)
    watched.wait_for("Working")

    service.mxworker("ctl", "pause", "mails")
    watched.wait_for("Working", "queue mails is paused: an operator paused it")
    service.mxworker("ctl", "resume", "mails")

    holding.touch()
    with Client(node.url) as admin:
        admin.publish("orders", [b"1"] * 3)
    wait_until(lambda: watched.view["totals"]["in_flight"] == 3, WITHIN_S, "three running handlers")
    service.signal(SIGTERM)
    watched.wait_for("Draining: 3 handlers left, at most ")
    watched.look("draining")
    holding.unlink()
    assert service.wait_exit(WITHIN_S) == 0
    record_property("screenshots", str(folder))
