"""SIGHUP: the terminal of `mxworker run` or `mxworker dev` has gone, so drain; or an operator asks for a reload."""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fork.conftest import Start
from tests.harness.service import Service, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.ports import free_port

APP = """
    from mxworker import Handlers

    handlers = Handlers()


    @handlers.consume("orders")
    async def order(payload: dict) -> None:
        pass
"""
# The leader of a session gets the terminal that it opens as its own: credentials(7). It takes SIGHUP as a login does,
# also when the tests themselves run under nohup(1).
TAKE_TERMINAL = (
    "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); os.open(sys.argv[1], os.O_RDWR); "
)
BECOME = TAKE_TERMINAL + "os.execvp(sys.argv[2], sys.argv[2:])"
LEAD = TAKE_TERMINAL + "import subprocess; subprocess.run(sys.argv[2:])"
STARTED = "worker 1 BOOTING -> CONNECTING"


class Window:
    """A terminal, with a service in its foreground that finds no broker and goes on trying."""

    def __init__(self, service: Service, keyboard: int) -> None:
        self.service = service
        self._keyboard = keyboard

    def close(self) -> None:
        os.close(self._keyboard)


Open = Callable[..., Window]


@pytest.fixture
def open_window(tmp_path: Path) -> Iterator[Open]:
    """`open_window("run", prefix=...)` opens a terminal and starts `mxworker run` there; `leader` says who leads it."""
    app = write_app(tmp_path, APP)
    with ExitStack() as running:

        def begin(command: str, *prefix: str, leader: str = BECOME) -> Window:
            keyboard, terminal = pty.openpty()
            said = [sys.executable, "-m", "mxworker", command, app, "--workers=1", "--log-level=debug"]
            url = f"--broker-url=amqp://127.0.0.1:{free_port()}/"
            on_terminal = [sys.executable, "-c", leader, os.ttyname(terminal), *prefix, *said, url, "--connect-wait=9m"]
            service = running.enter_context(Service(on_terminal, tmp_path))
            service.wait_for_log(STARTED)
            os.close(terminal)
            return Window(service, keyboard)

        yield begin


@pytest.mark.parametrize("command", ["run", "dev"])
def test_service_whose_terminal_is_closed_drains(open_window: Open, command: str) -> None:
    window = open_window(command)
    window.close()
    assert window.service.wait_exit() == 0
    assert window.service.survivors() == []
    assert "the terminal has gone" in window.service.log_text()


@pytest.mark.parametrize("command", ["run", "dev"])
def test_service_whose_shell_is_killed_drains(open_window: Open, command: str) -> None:
    """The kernel sends SIGHUP when the leader of the session has ended, and takes the terminal away after that."""
    window = open_window(command, leader=LEAD)
    window.service.signal(signal.SIGKILL)
    wait_until(lambda: not window.service.survivors(), 30, "the end of the service")
    assert "the terminal has gone" in window.service.log_text()
    window.close()


@pytest.mark.parametrize("command", ["run", "dev"])
def test_sighup_on_a_terminal_that_is_there_reloads(open_window: Open, command: str) -> None:
    window = open_window(command)
    window.service.signal(signal.SIGHUP)
    window.service.wait_for_log("reload: generation 2")
    assert window.service.exit_code is None
    window.close()
    assert window.service.wait_exit() == 0


@pytest.mark.parametrize("command", ["run", "dev"])
def test_service_under_nohup_outlives_its_terminal(open_window: Open, command: str) -> None:
    window = open_window(command, "nohup")
    window.close()
    window.service.wait_for_log("reload: generation 2")
    assert window.service.exit_code is None


def test_terminal_that_goes_a_moment_after_the_signal_is_noticed(start_ready: Start) -> None:
    service = start_ready("healthy", "--terminal-goes-late")
    service.kill(signal.SIGHUP)
    assert service.wait() == 0
    assert "reload" not in service.stderr()
