"""The broker as a child process: starting and stopping it, and the arguments by which it is told what to be."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mxworker.config.bounds import LOG_LEVELS
from mxworker.devbroker.settings import Settings
from mxworker.errors import BrokerError, ConfigError
from mxworker.system.log import as_set_up
from mxworker.system.terminal import has_terminal

if TYPE_CHECKING:
    from mxworker.devbroker.control import BrokerControl

PRODUCTION = "MXWORKER_ENV"
PASSWORD = "MXWORKER_EMBEDDED_PASSWORD"  # noqa: S105 - the name of a variable
_INVOCATION = "INVOCATION_ID"
_NOTIFY = "NOTIFY_SOCKET"
_STOP_PATIENCE_S = 10.0


def refuse_production(environment: Mapping[str, str]) -> None:
    """Raise ConfigError where the broker would lose messages that matter.

    A shell in a terminal window may inherit INVOCATION_ID from the window's own unit (systemd.exec(5)), so the variable
    alone makes no service of a process that has a controlling terminal.
    """
    if environment.get(PRODUCTION) == "production":
        raise ConfigError(
            f"{PRODUCTION}=production: the embedded broker keeps messages in memory only, and does not run in "
            "production. Use RabbitMQ, and name it with --broker-url."
        )
    marks = [_NOTIFY] if has_terminal() else [_NOTIFY, _INVOCATION]
    mark = next(filter(environment.get, marks), None)
    if mark is not None:
        raise ConfigError(
            f"{mark} is set, so this is a service of systemd: the embedded broker keeps messages in memory only, "
            "and does not run as a service. Use RabbitMQ, and name it with --broker-url."
        )


@dataclass(frozen=True)
class Answer:
    """What the process of a broker says when it serves, or why it cannot."""

    url: str = ""
    error: str | None = None


class BrokerProcess:
    """A running broker. Use it as a context manager, or call `stop`."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, control_path: str, folder: str | None) -> None:
        """`control_path` is empty for a broker without a control socket; `folder` is removed at the end."""
        self.url = url
        self.pid = process.pid
        self.control_path = control_path
        self._process = process
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rstrip("/").rpartition(":")[2])

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """None while the process runs, then its exit code, or minus the number of the signal that killed it."""
        return self._process.poll()

    def was_reaped(self, status: int) -> None:
        """Take in how the process ended, from somebody else who has waited for it."""
        self._process.returncode = status

    def answer(self) -> Answer | None:
        """Return what the process says of its start, once; None while it says nothing. For `start_again` only."""
        if self._process.stdout is None or self._process.stdout.closed:
            return None
        line = self._process.stdout.readline()
        if not line:
            return None
        self._process.stdout.close()
        return Answer(**json.loads(line))

    def control(self) -> BrokerControl:
        """Return a connection that moves the broker's clock."""
        from mxworker.devbroker.control import BrokerControl  # only tests need it, and it takes asyncio

        return BrokerControl(self.control_path)

    def stop(self) -> None:
        """End it, and lose what it holds. Ended already: nothing happens."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        _remove(self._folder)


def start_broker(
    settings: Settings | None = None,
    *,
    listening: socket.socket | None = None,
    is_controlled: bool = True,
    is_for_tests: bool = False,
) -> BrokerProcess:
    """Start a broker as a child process, which dies with this one, and return when it serves.

    By default it takes any free port of loopback. With `listening` it serves on that socket, whose address `settings`
    must name. You must call this from a thread that outlives the broker, because the kernel ends a child with the
    thread that made it (prctl(2)). With `is_controlled` it has a control socket, by default in a temporary folder,
    which stays behind when this process is killed. A broker that `is_for_tests` also starts in a service of systemd,
    since programs that run tests may be services. Raises ConfigError in production, BrokerError when the child does
    not start.
    """
    marks = (_INVOCATION, _NOTIFY) if is_for_tests else ()
    refuse_production(_without(marks, os.environ))
    settings = settings or Settings(port=0)
    folder = None
    control_path = settings.control_path or ""
    if is_controlled and not control_path:
        folder = tempfile.mkdtemp(prefix="mxworker-broker-")  # 0700, so that the control socket is ours alone
        control_path = f"{folder}/control.sock"
    process = _spawn(settings, control_path, listening, marks)
    assert process.stdout is not None
    with process.stdout as said:
        answer = Answer(**json.loads(said.readline() or '{"error": "it ended without a word"}'))
    if answer.error is not None:
        process.wait()
        _remove(folder)
        raise BrokerError(f"the embedded broker did not start: {answer.error}")
    return BrokerProcess(process, answer.url, control_path, folder)


def start_again(ended: BrokerProcess, settings: Settings, listening: socket.socket) -> BrokerProcess:
    """Start a broker in the place of one that has ended, and do not wait until it serves: its `answer` tells.

    It serves on the same socket as the one before. Raises OSError when the machine cannot start a process now.
    """
    process = _spawn(settings, ended.control_path, listening)
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)
    return BrokerProcess(process, ended.url, ended.control_path, None)


def _spawn(
    settings: Settings, control_path: str, listening: socket.socket | None, marks: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    environment = _without((_INVOCATION, *marks), os.environ)  # the first by `refuse_production`
    inherited = () if listening is None else (listening.fileno(),)
    return subprocess.Popen(  # noqa: S603 - our own module
        [
            *(sys.executable, "-P", "-m", "mxworker.devbroker"),
            *_arguments(settings, control_path),
            *(f"--listening-fd={fd}" for fd in inherited),
        ],
        pass_fds=inherited,
        env={**environment, PASSWORD: settings.account.password},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the parent, which then stops the broker
    )


def _without(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


def _remove(folder: str | None) -> None:
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _arguments(settings: Settings, control_path: str) -> Sequence[str]:
    control = (f"--control={control_path}",) if control_path else ()
    level, style = as_set_up()
    return (
        *control,
        f"--host={settings.host}",
        f"--port={settings.port}",
        f"--user={settings.account.user}",
        f"--limits={json.dumps(asdict(settings.limits))}",
        f"--log-level={level if level in LOG_LEVELS else 'warning'}",
        f"--log-format={style}",
        f"--dies-with={os.getpid()}",
    )
