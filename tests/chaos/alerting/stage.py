"""A service with a broker, traffic and Prometheus around it, and the faults that can befall it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from signal import SIGHUP, SIGKILL

from pamqp import commands

from tests.chaos.alerting import app
from tests.harness.proxy import Proxy
from tests.harness.service import Service
from tests.rabbit.client import Client, NotConfirmed
from tests.rabbit.node import Node

PER_SECOND = 20
ORDINARY = "sleep 0.02"
ALARM = ("set_vm_memory_high_watermark", "0.00001")
ALL_CLEAR = ("set_vm_memory_high_watermark", "0.4")
HOURS_S = 7200


class Traffic:
    """Messages that come all the time, until the block is left: ordinary ones, and others among them."""

    def __init__(self, url: str) -> None:
        self.every: dict[int, str] = {}
        """Which message takes the place of every so-manyth ordinary one."""
        self.per_second = PER_SECOND
        self.age_s = 0
        """How old the messages say that they are."""
        self._url = url
        self._stopped = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Publish nothing more. Raises what has ended the traffic before."""
        self._stopped.set()
        self._thread.join(60)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        try:
            self._publish()
        except Exception as error:  # raised again in the thread of the test
            self._failure = error

    def _publish(self) -> None:
        with Client(self._url) as client:
            for number in count(1):
                if self._stopped.wait(1 / self.per_second):
                    return
                bodies = [body for every, body in self.every.items() if number % every == 0]
                with suppress(NotConfirmed):  # for a moment a fault may leave no queue
                    send(client, (bodies or [ORDINARY])[0], self.age_s)


def send(client: Client, body: str, age_s: int = 0) -> None:
    """Publish one message that says that it is so old."""
    published_at = datetime.now(UTC) - timedelta(seconds=age_s)
    properties = commands.Basic.Properties(delivery_mode=2, content_type="text/plain", timestamp=published_at)
    client.publish(app.WORK, [body.encode()], properties)


@dataclass
class Stage:
    """What a fault can get hold of."""

    node: Node
    proxy: Proxy
    service: Service
    traffic: Traffic
    crashing: Path

    def send(self, body: str) -> None:
        """Publish one message besides the traffic."""
        with Client(self.node.url) as client:
            send(client, body)


Fault = Callable[[Stage], Iterator[None]]
"""Begins a fault, yields while it lasts, and ends it as far as others would suffer from it."""


def nothing(stage: Stage) -> Iterator[None]:
    stage.traffic.every = {10: "borrow"}
    stage.service.signal(SIGHUP)
    yield


def broker_down(stage: Stage) -> Iterator[None]:
    stage.traffic.stop()
    stage.node.sync()
    stage.node.stop()
    yield
    stage.node.start()


def queue_refused(stage: Stage) -> Iterator[None]:
    with Client(stage.node.url) as client:
        client.delete(app.WORK)
        client.declare(app.WORK, durable=True)  # a classic queue, where the code wants a quorum queue
    yield


def messages_are_old(stage: Stage) -> Iterator[None]:
    stage.traffic.age_s = HOURS_S
    yield


def handler_fails(stage: Stage) -> Iterator[None]:
    stage.traffic.every = {1: "fail"}
    yield


def some_are_rejected(stage: Stage) -> Iterator[None]:
    stage.traffic.every = {50: "reject"}
    yield


def poison(stage: Stage) -> Iterator[None]:
    stage.send("kill")
    yield


def more_than_it_can_bear(stage: Stage) -> Iterator[None]:
    stage.traffic.every = {1: "sleep 3"}  # long: on a busy machine a place is free for a moment after each message
    stage.traffic.per_second = 4 * app.PLACES
    yield


def crash_loop(stage: Stage) -> Iterator[None]:
    stage.crashing.touch()
    for worker in stage.service.workers()[:2]:
        worker.signal(SIGKILL)
    yield


def no_confirms(stage: Stage) -> Iterator[None]:
    with stage.node.hung(app.OUT):
        yield


def memory_alarm(stage: Stage) -> Iterator[None]:
    stage.traffic.stop()
    stage.node.ctl(*ALARM)
    yield
    stage.node.ctl(*ALL_CLEAR)


def slow_confirms(stage: Stage) -> Iterator[None]:
    stage.proxy.delay(0.4)
    yield


def loop_is_blocked(stage: Stage) -> Iterator[None]:
    stage.traffic.every = {PER_SECOND: "block 2"}
    yield


def handler_sticks(stage: Stage) -> Iterator[None]:
    stage.send("stick")
    yield


def service_gone(stage: Stage) -> Iterator[None]:
    stage.traffic.stop()
    stage.service.stop()
    yield


FAULTS: Mapping[str, tuple[str | None, Fault]] = {
    "nothing": (None, nothing),
    "broker down": ("NotConsuming", broker_down),
    "queue refused": ("NotConsuming", queue_refused),
    "old messages": ("AgeHigh", messages_are_old),
    "handler that fails always": ("FailureRatio", handler_fails),
    "dead letters": ("DeadLettersRising", some_are_rejected),
    "poison message": ("Quarantined", poison),
    "saturated handler": ("Saturated", more_than_it_can_bear),
    "crash loop": ("WorkerFlapping", crash_loop),
    "broker that does not confirm": ("PublishUnconfirmed", no_confirms),
    "memory alarm": ("PublishBlocked", memory_alarm),
    "slow confirms": ("ConfirmSlow", slow_confirms),
    "blocked loop": ("LoopLag", loop_is_blocked),
    "stuck handler": ("StuckHandlers", handler_sticks),
    "scrape missing": ("ScrapeMissing", service_gone),
}
