"""A service under test: `mxworker run` as processes of their own, with its log in a file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mxworker.control.client import NoAnswer, ask
from mxworker.control.protocol import Status
from mxworker.testing.app_queues import import_path
from mxworker.testing.polling import until
from mxworker.testing.waiting import StillWaiting

DRAIN_S = 5.0
_STOP_S = DRAIN_S + 5.0
_SHOWN_BYTES = 8000
# The variables of this process, and of a service that runs the tests.
_OTHERS = ("MXWORKER_", "NOTIFY_", "WATCHDOG_")


class ServiceUnderTest:
    """A running service. `mx_broker.run` starts it, and the end of the test stops it."""

    def __init__(self, app: str, url: str, folder: Path, app_dir: str | None, options: Sequence[str]) -> None:
        """Prepare; nothing runs before `start`. `options` are further ones of `mxworker run`."""
        self.app = app
        self._url = url
        self._options = options
        self.app_dir = app_dir
        self._log = folder / "service.log"
        self._runtime = tempfile.mkdtemp(prefix="mx-")  # short, as the address of a socket has to be
        self._socket = Path(self._runtime) / "control.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the processes, in the current directory."""
        where = () if self.app_dir is None else (f"--app-dir={self.app_dir}",)
        own = (f"--control-socket={self._socket}", "--no-http", f"--drain-timeout={DRAIN_S:g}s", "--log-format=text")
        command = [sys.executable, "-P", "-m", "mxworker.testing.service_process", str(os.getpid()), "run", self.app]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module, and the application under test
                [*command, *where, *own, *self._options],
                env={**environment, "MXWORKER_BROKER_URL": self._url, "PYTHONPATH": import_path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """What the service has logged."""
        return self._log.read_text(errors="backslashreplace") if self._log.exists() else ""

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while the service runs."""
        return None if self._process is None else self._process.poll()

    def status(self) -> dict[str, Any]:
        """Return the status of the service, as `mxworker status --json` does."""
        status: dict[str, Any] = ask(self._socket, Status(), time.monotonic() + 5)["status"]
        return status

    def wait_ready(self, timeout: float) -> None:
        """Wait until all workers consume. Raises StillWaiting, also when the service ends."""
        until(self._is_ready, timeout, lambda: f"{self.app} to consume its queues.\n{self.told()}")

    def _is_ready(self) -> bool:
        self.check()
        with suppress(NoAnswer):
            status = self.status()
            return bool(status["workers_ready"] == status["workers_wanted"])
        return False

    def check(self) -> None:
        """Raise StillWaiting when the service has ended by itself."""
        if self.exit_code is not None:
            raise StillWaiting(f"{self.app} has ended with exit code {self.exit_code}.\n{self.told()}")

    def told(self) -> str:
        """Return the end of the log, for an error."""
        return f"----- log of {self.app} -----\n{self.log[-_SHOWN_BYTES:]}"

    def stop(self) -> None:
        """Drain it, and wait for its end. Raises StillWaiting when it does not end well."""
        assert self._process is not None
        try:
            if self.exit_code is None:
                self._process.send_signal(signal.SIGTERM)
                self._process.wait(_STOP_S)
            if self.exit_code:
                raise StillWaiting(f"{self.app} ended with exit code {self.exit_code}.\n{self.told()}")
        except subprocess.TimeoutExpired:
            raise StillWaiting(f"{self.app} did not end within {_STOP_S:g} s.\n{self.told()}") from None
        finally:
            self.kill()

    def kill(self) -> None:
        """End all processes that are left of it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        shutil.rmtree(self._runtime, ignore_errors=True)
