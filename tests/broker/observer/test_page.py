"""What the page and /status.json say of a real service is what its handlers did, and nothing of a message."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.broker.apps import Recorded
from tests.harness.chromium import started
from tests.harness.ledger import FINISH
from tests.harness.service import Service
from tests.harness.waiting import wait_until

WITHIN_S = 90

APP = """
    import os

    from mxworker import Context, Handlers, Queue, Reject
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume(Queue(os.environ["QUEUE"]), retry=None)
    async def judge(body: bytes, ctx: Context) -> None:
        number = int(body.rpartition(b"-")[2])
        if number % 10 == 0:
            raise ValueError(f"not this one: {body!r}")
        if number % 10 == 1:
            raise Reject(f"nor this one: {body!r}")
        ledger.finish(body.decode())
"""


class Shown:
    """A service, and what it says of itself over HTTP."""

    def __init__(self, service: Service, recorded: Recorded) -> None:
        self.recorded = recorded
        self.url = json.loads(service.mxworker("status", "--json").stdout)["http"]

    def get(self, path: str) -> str:
        with urlopen(self.url.rstrip("/") + path, timeout=30) as answer:
            return answer.read().decode()  # type: ignore[no-any-return]

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.get("/status.json"))  # type: ignore[no-any-return]

    def handle(self, count: int) -> None:
        """Publish more messages, and wait until the service says that all have ended."""
        self.recorded.publish(count)
        ended = len(self.recorded.ids)

        def is_told() -> bool:
            view = self.json
            totals = view["totals"]
            is_calm = totals["in_flight"] == 0 and all(queue["state"] == "consumed" for queue in view["queues"])
            return bool(totals["acked"] + totals["failed"] >= ended and is_calm)  # workers tell the last at each beat

        wait_until(is_told, WITHIN_S, f"the end of {ended} messages in /status.json")


@contextmanager
def shown(recorded: Recorded) -> Iterator[Shown]:
    with recorded.service("--workers=2", "--http=127.0.0.1:0", source=APP) as service:
        service.wait_ready()
        yield Shown(service, recorded)


def test_page_and_json_agree_with_the_ledger(
    broker_url: str, queue_name: str, tmp_path: Path, scale: Callable[[int, int], int]
) -> None:
    messages = scale(500, 20_000)
    recorded = Recorded(broker_url, tmp_path, queue_name)
    with shown(recorded) as service:
        service.handle(messages)
        finished = [record for record in recorded.records if record.event is FINISH]
        failed = messages // 10
        assert len(finished) == messages - 2 * failed

        view, page = service.json, service.get("/")
        assert re.match(r"Working|Degraded: (the event loop of|\d+% of the deliveries)", view["state"]["text"])
        [queue] = view["queues"]
        assert (queue["queue"], queue["handler"], queue["state"]) == (queue_name, "judge", "consumed")
        assert {name: count for name, count in queue["outcomes"].items() if count} == {
            "ack": len(finished),
            "reject": 2 * failed,
        }
        [error] = [each for each in view["errors"] if each["error"] == "ValueError"]
        assert (error["total"], error["handler"]) == (failed, "judge")
        assert [(worker["slot"], worker["state"]) for worker in view["workers"]] == [(1, "ready"), (2, "ready")]
        assert f"{len(finished):,} acked, {2 * failed:,} rejected" in page
        assert "<h1>Working</h1>" in page or "<h1>Degraded" in page
        for text in (page, json.dumps(view), service.get("/metrics")):
            assert recorded.ids[0] not in text
            assert "not this one" not in text
            assert "nor this one" not in text


def test_the_page_of_a_real_service_in_a_browser(
    broker_url: str, queue_name: str, tmp_path: Path, record_property: Callable[[str, str], None]
) -> None:
    recorded = Recorded(broker_url, tmp_path, queue_name)
    with started(tmp_path / "browser") as browser, shown(recorded) as service:
        with browser.open(service.url) as tab:
            tab.wait("document.body.innerText.includes('0 acked')")
            recorded.publish(100)
            tab.wait("document.body.innerText.includes('80 acked')")
            tab.wait("document.body.innerText.includes('80 acked, 20 rejected')")
            assert tab.complaints == []
            tab.screenshot(tmp_path / "page.png")
        with browser.open(service.url, width=390, scripts=False) as tab:
            assert "80 acked, 20 rejected" in tab.text
            assert not tab.evaluate("document.documentElement.scrollWidth > innerWidth")
            assert tab.complaints == []
    record_property("screenshots", str(tmp_path))
