"""`mxworker top` in a terminal: it has the figures of the handlers, outlives its service, and leaves no trace."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM
from typing import Any

import pytest

from tests.harness.ledger import FINISH, read
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

PATIENCE_S = 60.0
GOOD, BAD = 480, 20
COLUMNS, LINES = 80, 24
SOCKET = "control.sock"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
HOME, SHOWS, HIDES = "\x1b[H", "\x1b[?1049h", "\x1b[?1049l"

APP = """
    import os

    from mxworker import Handlers, Reject
    from mxworker.worker import queue_watch
    from tests.harness.ledger import Ledger

    queue_watch.LOOK_EVERY_S = 0.5  # so that the test need not wait for a look of 5 s
    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume(os.environ["QUEUE"])
    async def order(text: str) -> None:
        if text.startswith("bad"):
            raise Reject("bad")
        ledger.finish(text)
"""


class Top:
    """`mxworker top` in a terminal of 80 columns and 24 lines."""

    def __init__(self, folder: Path) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", LINES, COLUMNS, 0, 0))
        self.mode = termios.tcgetattr(theirs)
        self._theirs = theirs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mxworker", "top", "--interval=300ms", f"--control-socket={folder / SOCKET}"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that keys become signals
        )
        os.set_blocking(self._ours, False)
        self.output = ""

    def read(self) -> str:
        """Return everything that was written so far."""
        try:
            while chunk := os.read(self._ours, 65536):
                self.output += chunk.decode("utf-8", "replace")
        except (BlockingIOError, OSError):
            pass
        return self.output

    def screen(self) -> list[str]:
        """Return the lines of the last frame that is whole."""
        frames = self.read().split(HOME)
        return [CONTROL.sub("", line).rstrip() for line in frames[-2].split("\n")] if len(frames) > 2 else []

    def wait_for(self, text: str) -> None:
        """Wait until a frame has the text."""
        wait_until(lambda: text in "\n".join(self.screen()), PATIENCE_S, f"'{text}' on the screen")

    def press(self, key: bytes) -> None:
        os.write(self._ours, key)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def mode_now(self) -> list[Any]:
        return termios.tcgetattr(self._theirs)

    def is_restored(self) -> bool:
        """Whether the terminal is as it was."""
        written = self.read()
        shows_cursor = written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")
        return self.mode_now() == self.mode and written.rfind(HIDES) > written.rfind(SHOWS) and shows_cursor


@pytest.fixture
def start(broker_url: str, queue_name: str, tmp_path: Path) -> Callable[[], Service]:
    """Return a function that starts the service."""
    app = write_app(tmp_path, APP)
    flags = ("--workers=2", "--no-http", f"--control-socket={tmp_path / SOCKET}")
    env = {"MXWORKER_BROKER_URL": broker_url, "QUEUE": queue_name, "LEDGER": str(tmp_path / "ledger")}
    return lambda: Service(mxworker_run(app, *flags, app_dir=tmp_path), tmp_path, env=env)


@pytest.fixture
def tops(tmp_path: Path) -> Iterator[Callable[[], Top]]:
    """Return a function that opens a terminal with a `top` in it."""
    opened: list[Top] = []

    def make() -> Top:
        opened.append(Top(tmp_path))
        return opened[-1]

    yield make
    for top in opened:
        top.close()


def shown_once(service: Service, folder: Path, *flags: str) -> str:
    """Return what `top` writes into a pipe."""
    shown = service.mxworker("top", "--interval=200ms", f"--control-socket={folder / SOCKET}", *flags)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


def test_figures_are_those_of_the_handlers(
    start: Callable[[], Service], tops: Callable[[], Top], queue_name: str, admin: Client, tmp_path: Path
) -> None:
    with start() as service:
        service.wait_ready()
        top = tops()
        top.wait_for("Working")
        admin.publish(queue_name, [f"good {number}".encode() for number in range(GOOD)])
        admin.publish(queue_name, [f"bad {number}".encode() for number in range(BAD)])
        top.wait_for(f"acked {GOOD}  failed {BAD}")
        top.wait_for(f"dead {BAD}")
        finished = sum(record.event is FINISH for record in read(tmp_path / "ledger"))
        assert (finished, admin.counts(f"{queue_name}.dlq").messages) == (GOOD, BAD)
        lines = top.screen()
        assert len(lines) <= LINES
        assert max(map(len, lines)) <= COLUMNS
        (row,) = [line.split() for line in lines if line.split()[1:2] == ["order"]]
        assert row[0].startswith(queue_name[:4]), lines  # a long name is cut in its middle when rates need the room
        assert row[-2:] == [str(BAD), str(BAD)]  # dead letters, and failed
        below = next(line for line in lines if line.startswith("WORKER"))
        workers = [line.split() for line in lines[lines.index(below) + 1 :] if line.split()[:1] in (["1"], ["2"])]
        assert sorted(int(line[1]) for line in workers) == sorted(service.worker_pids())

        figures = json.loads(shown_once(service, tmp_path, "--json"))
        assert (figures["totals"]["acked"], figures["totals"]["failed"]) == (GOOD, BAD)
        (queue,) = figures["queues"]
        assert (queue["queue"], queue["outcomes"]["ack"], queue["outcomes"]["reject"]) == (queue_name, GOOD, BAD)


def test_it_says_when_the_service_does_not_answer_and_goes_on_when_it_is_back(
    start: Callable[[], Service], tops: Callable[[], Top]
) -> None:
    with start() as service:
        service.wait_ready()
        top = tops()
        top.wait_for("Working")
        service.signal(SIGSTOP)
        top.wait_for("NO ANSWER")
        service.signal(SIGCONT)
        top.wait_for("Working")
        os.kill(service.worker_pids()[0], SIGKILL)
        top.wait_for("SIGKILL")
    top.wait_for("NO ANSWER")
    with start():
        top.wait_for("Working")


def test_terminal_is_as_it_was_however_top_is_left(
    start: Callable[[], Service], tops: Callable[[], Top], tmp_path: Path
) -> None:
    with start() as service:
        service.wait_ready()
        ways: dict[str, Callable[[Top], object]] = {
            "q": lambda top: top.press(b"q"),
            "Ctrl-C": lambda top: top.press(b"\x03"),
            "SIGTERM": lambda top: top.process.send_signal(SIGTERM),
            "SIGHUP": lambda top: top.process.send_signal(SIGHUP),
        }
        opened = {name: tops() for name in ways}  # at once, as their starts take long
        for name, leave in ways.items():
            top = opened[name]
            top.wait_for("Working")
            assert top.mode_now() != top.mode, name
            leave(top)
            assert top.process.wait(PATIENCE_S) == 0, name
            assert top.is_restored(), name
        text = shown_once(service, tmp_path)
    assert text.replace("\n", "").isprintable()
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("Wo", "QU"))] == ["Working", "QUEUE"]


def test_without_a_service_it_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mxworker", "top", f"--control-socket={tmp_path / SOCKET}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert shown.returncode == 1
    assert "no service answers at" in shown.stderr
