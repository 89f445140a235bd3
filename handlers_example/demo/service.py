"""The service of the demo as a child process: `mxworker run`, its log in a file, stopped with SIGTERM."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

REPOSITORY = Path(__file__).parents[2]

_READY = "Ready in"
_PAGE = re.compile(r"^http +(http://\S+)$", re.MULTILINE)
_READY_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.05
_DRAIN_WITHIN_S = 40.0  # the service's own deadline is 30 s
_SHOWN_LINES = 15
_SOCKETS = "/tmp"  # the address of a socket must be short, and TMPDIR may be long


class ServiceFailed(Exception):
    """The service ended too early, or was not ready or did not stop in time. The text holds the end of its log."""


class Service:
    """A running `mxworker run`."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process = process
        self._log = log

    async def wait_ready(self) -> None:
        """Wait until every worker consumes. Raises ServiceFailed."""
        give_up_at = asyncio.get_running_loop().time() + _READY_WITHIN_S
        while _READY not in self._log_text():
            if asyncio.get_running_loop().time() > give_up_at:
                raise self._failure(f"is not ready after {_READY_WITHIN_S:g} s")
            await self.pause(_LOOK_EVERY_S)

    @property
    def page(self) -> str | None:
        """The address of its status page, None before it is ready and when it serves no HTTP."""
        found = _PAGE.search(self._log_text())
        return None if found is None else found[1]

    async def pause(self, seconds: float) -> None:
        """Sleep for `seconds` while the service runs. Raises ServiceFailed as soon as it has ended."""
        try:
            code = await asyncio.wait_for(self._process.wait(), seconds)
        except TimeoutError:
            return
        raise self._failure(f"ended with {code}")

    async def stop(self) -> None:
        """Drain and stop the service; may be called again.

        Raises ServiceFailed when the service does not end in time, or not with exit code 0.
        """
        self._terminate()
        try:
            code = await asyncio.wait_for(self._process.wait(), _DRAIN_WITHIN_S)
        except TimeoutError:
            self._process.kill()  # the kernel ends its workers with it
            await self._process.wait()
            raise self._failure(f"had not stopped {_DRAIN_WITHIN_S:g} s after SIGTERM") from None
        if code != 0:
            raise self._failure(f"ended with {code}")

    def _terminate(self) -> None:
        try:
            self._process.terminate()
        except ProcessLookupError:
            pass  # the service has ended, perhaps by the same Ctrl-C that ends us

    def _failure(self, what: str) -> ServiceFailed:
        end_of_log = "\n".join(f"  {line}" for line in self._log_text().splitlines()[-_SHOWN_LINES:])
        return ServiceFailed(f"the service {what}.  The end of its log, {self._log}:\n{end_of_log}")

    def _log_text(self) -> str:
        return self._log.read_text("utf-8", "backslashreplace")


@asynccontextmanager
async def running(app: str, workers: int, env: Mapping[str, str], log: Path) -> AsyncIterator[Service]:
    """Start `mxworker run APP` with `env` added to our environment, and drain it afterwards."""
    arguments = ["run", app, f"--workers={workers}", f"--app-dir={REPOSITORY}", "--log-level=info", "--log-format=text"]
    arguments.append(f"--name=demo-{os.getpid()}")  # two demos may run at once
    arguments.append("--insecure-app-dir")  # this process runs the same files, so the option adds no risk
    print(f"$ mxworker {shlex.join(arguments[:3])}\n  its log: {log}", file=sys.stderr)
    with TemporaryDirectory(prefix="mxworker-", dir=_SOCKETS) as sockets:
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mxworker", *arguments,
                stdin=DEVNULL, stdout=output, stderr=output, env={**os.environ, **env, "RUNTIME_DIRECTORY": sockets},
            )  # fmt: skip
        service = Service(process, log)
        try:
            yield service
        finally:
            await service.stop()
