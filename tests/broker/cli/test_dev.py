"""`mxworker dev` on a real broker: what is saved is served, and no message is lost by it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.broker.apps import Recorded
from tests.harness.saving import save_by_rename
from tests.harness.service import Service
from tests.harness.waiting import wait_until

SERVED_WITHIN_S = 45.0
MESSAGES = 200

APP = """
import asyncio
import os

from mxworker import Handlers
from tests.harness.ledger import Ledger

handlers = Handlers()
ledger = Ledger(os.environ["LEDGER"])
version = "VERSION"


@handlers.consume(os.environ["QUEUE"])
async def record(message_id: str) -> None:
    ledger.start(message_id)
    await asyncio.sleep(0.02)
    with open("versions", "a") as versions:
        versions.write(f"{version} {message_id}\\n")
    ledger.finish(message_id)
"""
BROKEN = "import asyncio\n\nhandlers = asyncio.no_such_thing\n"


class Session:
    """An app under development, and what its handlers have recorded."""

    def __init__(self, recorded: Recorded, service: Service) -> None:
        self.recorded = recorded
        self.service = service
        self._folder = recorded.folder

    def save(self, source: str) -> None:
        save_by_rename(self._folder / "app.py", source)

    def served_by(self) -> set[str]:
        """Return the versions that have handled a message."""
        file = self._folder / "versions"
        return {line.split()[0] for line in file.read_text().splitlines()} if file.exists() else set()

    def serve_until(self, condition: Callable[[], bool], what: str) -> None:
        """Publish a few messages again and again until the condition holds."""

        def go_on() -> bool:
            self.recorded.publish(MESSAGES // 20)
            return condition()

        wait_until(go_on, 30, what)


@contextmanager
def developing(url: str, queue: str, folder: Path, *options: str) -> Iterator[Session]:
    """Run `mxworker dev` for version 1 of the app; at the end all messages must have been handled, each once."""
    recorded = Recorded(url, folder, queue)
    recorded.declare()
    (folder / "app.py").write_text(APP.replace("VERSION", "1"))
    command = [sys.executable, "-m", "mxworker", "dev", "app", *options]
    env = {"MXWORKER_BROKER_URL": url, "LEDGER": str(recorded.path), "QUEUE": queue, "PYTHONDONTWRITEBYTECODE": ""}
    with Service(command, folder, env=env) as service:
        service.wait_ready()
        session = Session(recorded, service)
        yield session
        wait_until(lambda: recorded.finished_ids >= set(recorded.ids), 30, "all messages to be handled")
    report = recorded.judge()
    assert report.exactly_once, report


def test_edit_is_served_soon_after_saving_and_no_message_is_lost(
    broker_url: str, queue_name: str, tmp_path: Path, scale: Callable[[int, int], int]
) -> None:
    with developing(broker_url, queue_name, tmp_path, "--workers=2") as session:
        session.serve_until(lambda: session.served_by() == {"1"}, "the first version")
        for number in range(2, scale(4, 12)):
            version = str(number)
            saved_at = time.monotonic()
            session.save(APP.replace("VERSION", version))
            session.serve_until(lambda version=version: version in session.served_by(), f"version {version}")  # type: ignore[misc]
            took_s = time.monotonic() - saved_at
            print(f"version {version} served after {took_s:.2f} s")
            assert took_s < SERVED_WITHIN_S
        assert "handler record: message" in session.service.log_text()  # at DEBUG


def test_code_that_fails_to_load_is_shown_and_the_old_code_goes_on_serving(
    broker_url: str, queue_name: str, tmp_path: Path
) -> None:
    with developing(broker_url, queue_name, tmp_path) as session:
        session.save(BROKEN)
        session.service.wait_for_log("  app.py:3  handlers = asyncio.no_such_thing    AttributeError:")
        session.recorded.publish(MESSAGES)
        wait_until(lambda: len(session.recorded.finished_ids) == MESSAGES, 30, "the old code")
        assert session.served_by() == {"1"}
        session.save(APP.replace("VERSION", "2"))
        session.serve_until(lambda: "2" in session.served_by(), "the repaired code")
