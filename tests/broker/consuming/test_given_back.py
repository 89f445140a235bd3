"""Messages that are held and given back again and again are handled once, and end nowhere else, on any kind of queue.

RabbitMQ 4 counts what comes back, and ends a message that came back more often than the queue's limit lets it. Each
message here has come back as often as the default limit allows before the test begins.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, SIGUSR2
from typing import Any

import pytest

from mxworker import Queue
from tests.harness.processes import Process
from tests.harness.scales import among
from tests.harness.service import Service, killing_late, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

MESSAGES = 60
CONCURRENCY = 4
RETURNS_BEFORE = 20
SOON_S = 60.0
KILL_SLACK_S = 20  # what a drain may last longer on a busy machine
KINDS: dict[str, dict[str, Any]] = {
    "quorum": {},
    "quorum without dead letters": {"dead_letter": False},
    "classic": {"type": "classic"},
    "single active consumer": {"single_active_consumer": True},
}

BLOCKED = f"""
    import asyncio
    import json
    import os

    from mxworker import Handlers, Queue

    handlers = Handlers()
    queue = Queue(os.environ["QUEUE"], **json.loads(os.environ["PARAMETERS"]))
    notes = os.open("notes", os.O_APPEND | os.O_CREAT | os.O_WRONLY)


    def note(*words):
        os.write(notes, " ".join(map(str, words)).encode() + b"\\n")


    @handlers.consume(queue, concurrency={CONCURRENCY}, prefetch={MESSAGES}, timeout=3600)
    async def hold(body: str) -> None:
        note("start", body, os.getpid())
        while not os.path.exists("released"):
            await asyncio.sleep(0.02)
        note("finish", body, os.getpid())
"""


class Held:
    """A queue of messages whose handlers do not come to an end before `release`."""

    def __init__(self, url: str, admin: Client, folder: Path, queue: Queue, parameters: dict[str, Any]) -> None:
        self._url = url
        self._admin = admin
        self._folder = folder
        self._queue = queue
        self._parameters = parameters
        admin.declare(queue.name, arguments=queue.declared_arguments())
        admin.publish(queue.name, [f"m{number}".encode() for number in range(MESSAGES)])
        for _ in range(RETURNS_BEFORE):
            with Client(url) as client:
                client.hold(queue.name, MESSAGES)
            self.wait_all_back()

    @contextmanager
    def service(self, *flags: str) -> Iterator[Service]:
        """Run the application until the block ends."""
        app = write_app(self._folder, BLOCKED)
        env = {
            "MXWORKER_BROKER_URL": self._url,
            "QUEUE": self._queue.name,
            "PARAMETERS": json.dumps(self._parameters),
        }
        command = mxworker_run(app, "--drain-timeout=300ms", *flags, app_dir=self._folder)
        with Service(killing_late(command, KILL_SLACK_S), self._folder, env=env) as service:
            yield service

    def ready(self) -> int:
        return self._admin.counts(self._queue.name).messages

    def wait_held(self) -> None:
        """Wait until all messages are with workers, and as many handlers as may be have started."""
        wait_until(lambda: self.ready() == 0, SOON_S, "all messages to be held")

    def wait_all_back(self) -> None:
        wait_until(lambda: self.ready() == MESSAGES, SOON_S, "all messages to be back")

    def notes(self, kind: str) -> list[tuple[str, int]]:
        """Return body and process of what was noted, in the order of writing."""
        path = self._folder / "notes"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        return [(body, int(pid)) for noted, body, pid in lines if noted == kind]

    def release(self) -> None:
        """Let the handlers come to an end, and wait for all of them."""
        (self._folder / "released").touch()
        wait_until(lambda: len(self.finished) == MESSAGES, SOON_S, "all messages to be handled")

    def finish(self, service: Service) -> None:
        """Have all messages handled once the workers hold them, and end the service."""
        self.wait_held()
        self.release()
        if self._queue.single_active_consumer:
            time.sleep(2)  # for the acks, since its drain waits 0.1 s for them
        service.signal(SIGTERM)
        assert service.wait_exit(SOON_S) == 0

    @property
    def finished(self) -> Counter[str]:
        """How often each message was handled."""
        return Counter(body for body, _ in self.notes("finish"))

    def assert_each_was_handled_once(self) -> None:
        assert set(self.finished.values()) == {1}
        self.assert_nothing_is_left()

    def assert_nothing_is_left(self) -> None:
        """Look into the queue, and into those where it should not have come."""
        assert self.ready() == 0
        assert not self._admin.exists(self._queue.quarantine_name)
        if self._queue.dead_letter:
            assert self._admin.counts(self._queue.dead_letter_name).messages == 0


@pytest.fixture(params=KINDS)
def held(request: pytest.FixtureRequest, broker_url: str, admin: Client, tmp_path: Path, queue_name: str) -> Held:
    parameters = KINDS[request.param]
    queue = Queue(queue_name, **parameters)
    if queue.dead_letter:
        admin.declare_quorum(queue.dead_letter_name)
    return Held(broker_url, admin, tmp_path, queue, parameters)


def test_pauses(held: Held, scale: Callable[[int, int], int]) -> None:
    with held.service("--workers=2") as service:
        service.wait_ready()
        for number in range(scale(3, 25)):
            held.wait_held()
            consumed = len(service.events("queue_consumed"))
            service.signal(SIGUSR2)
            paused = 2 * (number + 1)
            wait_until(lambda paused=paused: len(service.events("queue_paused")) == paused, SOON_S, "both to pause")
            wait_until(lambda: held.ready() >= MESSAGES - 2 * CONCURRENCY, SOON_S, "what waits to be back")
            service.signal(SIGUSR2)
            again = consumed + 2
            wait_until(lambda again=again: len(service.events("queue_consumed")) == again, SOON_S, "both to go on")
        held.finish(service)
    held.assert_each_was_handled_once()


@pytest.mark.parametrize("held", among(KINDS, "quorum", "single active consumer"), indirect=True)
def test_stops(held: Held, scale: Callable[[int, int], int]) -> None:
    for _ in range(scale(2, 25)):
        with held.service("--workers=2") as service:
            held.wait_held()
            service.signal(SIGTERM)
            service.wait_exit(SOON_S)
        held.wait_all_back()
    with held.service("--workers=2") as service:
        held.finish(service)
    held.assert_each_was_handled_once()


@pytest.mark.parametrize("held", among(KINDS, "quorum without dead letters", "single active consumer"), indirect=True)
def test_reloads(held: Held, scale: Callable[[int, int], int]) -> None:
    with held.service("--workers=1") as service:
        service.wait_ready()
        for reload in range(scale(3, 25)):
            held.wait_held()
            service.signal(SIGHUP)
            service.wait_for_event("reload_finished", SOON_S, generation=reload + 2)
        held.finish(service)
    held.assert_each_was_handled_once()


@pytest.mark.parametrize("held", among(KINDS, "quorum", "classic"), indirect=True)
def test_kills(held: Held, scale: Callable[[int, int], int]) -> None:
    """Messages that run alone when their worker is killed would be taken for its killers, so none is suspected here."""
    with held.service("--workers=4", "--quarantine-after=0") as service:
        service.wait_ready()
        for _ in range(scale(3, 25)):
            held.wait_held()
            victim = wait_until(lambda: _busy(held, service), SOON_S, "a worker whose handlers have started")
            victim.signal(SIGKILL)
            wait_until(lambda victim=victim: not victim.is_alive, SOON_S, "its end")
        held.finish(service)
    assert len(held.finished) == MESSAGES
    held.assert_nothing_is_left()


def _busy(held: Held, service: Service) -> Process | None:
    """Return the living worker that has started a message last."""
    alive = {worker.pid: worker for worker in service.workers()}
    return next((alive[pid] for _, pid in reversed(held.notes("start")) if pid in alive), None)
