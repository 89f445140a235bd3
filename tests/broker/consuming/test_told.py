"""A worker tells the board, and so `status`, why it has no connection, and why it does not consume a queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mxworker.control.client import ask
from mxworker.control.protocol import Status
from tests.harness.faults import Arrival
from tests.harness.proxy import Proxy, proxy_to
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

WITHIN_S = 60

APP = """
    import os

    from mxworker import Context, Handlers, Queue

    handlers = Handlers()


    @handlers.consume(Queue(os.environ["FIRST"], declare="passive", dead_letter=False), retry=None)
    async def first(body: bytes) -> None:
        pass


    @handlers.consume(Queue(os.environ["SECOND"], declare="passive", dead_letter=False), retry=None)
    async def second(body: bytes, ctx: Context) -> None:
        ctx.pause()
"""


class Told:
    """A service whose broker is behind a proxy, and its status."""

    def __init__(self, service: Service, proxy: Proxy, first: str, second: str) -> None:
        self.service = service
        self.proxy = proxy
        self.first = first
        self.second = second

    @property
    def status(self) -> dict[str, Any]:
        (path,) = self.service.runtime_directory.glob("**/*.sock")
        return ask(path, Status(), time.monotonic() + WITHIN_S)["status"]  # type: ignore[no-any-return]

    def wait(self, what: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        found: dict[str, Any] = {}

        def look() -> object:
            found.update(self.status)
            return holds(found)

        wait_until(look, WITHIN_S, what)
        return found


@contextmanager
def told(broker_url: str, queue_name: str, tmp_path: Path) -> Iterator[Told]:
    first, second = f"{queue_name}.first", f"{queue_name}.second"
    with Client(broker_url) as admin, proxy_to(broker_url) as proxy:
        admin.declare(first)
        admin.declare(second)
        command = mxworker_run(write_app(tmp_path, APP), "--workers=2", app_dir=tmp_path)
        env = {"MXWORKER_BROKER_URL": proxy.url(broker_url), "FIRST": first, "SECOND": second}
        try:
            with Service(command, tmp_path, env=env) as service:
                service.wait_ready()
                yield Told(service, proxy, first, second)
        finally:
            admin.delete(first)
            admin.delete(second)


def test_status_tells_what_is_not_consumed_and_why(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    with told(broker_url, queue_name, tmp_path) as service, Client(broker_url) as admin:
        both_up = [("consume", "up", 2), ("publish", "up", 2)]
        status = service.wait("connections", lambda status: links(status) == both_up)
        assert all(link["why"].startswith(("RabbitMQ ", "mxworker embedded broker ")) for link in status["links"])

        admin.publish(service.second, [b"", b""])
        status = service.wait("a pause", lambda status: status["unconsumed"])
        assert (status["unconsumed"][0]["queue"], status["unconsumed"][0]["state"]) == (service.second, "paused")
        assert status["unready_because"] == ""

        admin.delete(service.first)
        status = service.wait("a lost queue", lambda status: is_missing_in(2, of(status, service.first)))
        assert of(status, service.first)[0]["state"] == "waiting"
        assert status["unready_because"].startswith("0 of 2 workers consume: ")
        assert f"queue       {service.first} is waiting in 2 workers" in service.service.mxworker("status").stdout

        service.proxy.new_connections(Arrival.REFUSE)
        service.proxy.cut()
        status = service.wait("no connection", lambda status: ("consume", "down", 2) in links(status))
        assert status["unconsumed"] == []
        why = next(link["why"] for link in status["links"] if link["role"] == "consume")
        assert status["unready_because"] == f"0 of 2 workers consume: {why}"

        service.proxy.heal()
        admin.declare(service.first)
        service.wait("both workers to consume again", lambda status: of(status, service.first) == [])
        service.wait("a ready service", lambda status: not status["unready_because"])


def of(status: dict[str, Any], queue: str) -> list[dict[str, Any]]:
    return [entry for entry in status["unconsumed"] if entry["queue"] == queue]


def links(status: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(link["role"], link["state"], link["workers"]) for link in status["links"]]


def is_missing_in(workers: int, entries: list[dict[str, Any]]) -> bool:
    """Tell whether this many workers found no queue; before that, their reason is that the broker cancelled them."""
    return [entry["workers"] for entry in entries if "NOT_FOUND" in entry["why"]] == [workers]
