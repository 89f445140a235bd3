"""A service under test: mxworker as a subprocess, in a session of its own, with its log in a file.

    with Service(mxworker_run("app:handlers", "--workers=4", app_dir=tmp_path), tmp_path) as service:
        service.wait_ready()
        service.kill_worker(rng)
        service.signal(SIGTERM)
        assert service.wait_exit() == 0

Whatever a test does, leaving the block ends every process of the session. A test run that is killed takes the master
along; the master's own promise takes its workers.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import textwrap
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from types import TracebackType
from typing import Any

from tests.harness.http import Web
from tests.harness.processes import Process, children, in_session
from tests.harness.repository import REPOSITORY
from tests.harness.waiting import wait_until
from tests.rabbit.processes import DIES_WITH_PARENT

WITHOUT_UVLOOP = Path(__file__).parent / "without_uvloop"

_OBSERVER = "mxworker: observer"
_STOP_PATIENCE_S = 60.0
_KILL_PATIENCE_S = 10.0
_SHOWN_CHARACTERS = 20_000  # of a log, when a test fails after its service has ended


def write_app(directory: Path, source: str, name: str = "app") -> str:
    """Write `source` as the module `name` into `directory` and return `name:handlers`."""
    (directory / f"{name}.py").write_text(textwrap.dedent(source))
    return f"{name}:handlers"


def mxworker_run(app: str, *flags: str, app_dir: Path) -> list[str]:
    """Return the command line of `mxworker run APP`, for an app that lies in `app_dir`."""
    return [sys.executable, "-m", "mxworker", "run", app, f"--app-dir={app_dir}", *flags]


def killing_late(command: Sequence[str], slack_s: int) -> list[str]:
    """Return the command line of a master that kills workers only `slack_s` after the time for their drain."""
    starter = (
        "import runpy\n"
        "from mxworker.master import slots\n"
        f"slots.DRAIN_SLACK_NS = {slack_s} * 10**9\n"
        "runpy.run_module('mxworker', run_name='__main__', alter_sys=True)\n"
    )
    python, _, _, *arguments = command  # python -m mxworker ...
    return [python, "-c", starter, *arguments]


class Service:
    """A running command. stdout and stderr go to files in `directory`, `<name>.out` and `<name>.err`.

    The environment is ours without `MXWORKER_*`, with the repository on `PYTHONPATH` (so that a handler module can
    import the ledger), and with `env` on top. Half of the tests, chosen by name, have services without uvloop, so that
    both event loops are tested. Its control socket is in a directory of its own, however many of one name
    run at once.
    """

    def __init__(
        self, command: Sequence[str], directory: Path, *, name: str = "service", env: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.directory = directory
        self._runtime = tempfile.mkdtemp(prefix="mx-")  # short, as the address of a socket has to be
        self._env = _environment({"XDG_RUNTIME_DIR": self._runtime, **(env or {})})
        self._err = directory / f"{name}.err"
        self._out = directory / f"{name}.out"
        with self._err.open("ab") as err, self._out.open("ab") as out:
            self._popen = subprocess.Popen(
                [*DIES_WITH_PARENT, *self.command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=directory,
                env=self._env,
                start_new_session=True,
            )

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()
        log = self.log_text() if error is not None else self.log_text()[-_SHOWN_CHARACTERS:]
        sys.stdout.write(f"{self!r}\n{log}\n")  # shown when the test fails, here or after this

    def __repr__(self) -> str:
        code = self._popen.poll()
        state = f"pid {self.pid}" if code is None else f"ended with {code}"
        return f"Service({state}: {' '.join(self.command)})"

    # The master

    @property
    def pid(self) -> int:
        """The pid of the master."""
        return self._popen.pid

    @property
    def runtime_directory(self) -> Path:
        """Where the sockets of the service are, until `stop`."""
        return Path(self._runtime)

    @property
    def exit_code(self) -> int | None:
        """How the master ended: its exit code, minus the signal that killed it, or None while it runs."""
        return self._popen.poll()

    def signal(self, number: Signals) -> None:
        """Send a signal to the master; one that has ended is left alone."""
        self._popen.send_signal(number)

    def mxworker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another `mxworker` command, such as `ctl`, to its end, in the environment of the service."""
        command = [sys.executable, "-m", "mxworker", *arguments]
        return subprocess.run(
            command, cwd=self.directory, env=self._env, capture_output=True, text=True, timeout=60, check=False
        )

    def wait_ready(self, timeout_s: float = 90.0, times: int = 1) -> None:
        """Wait until the log says `Ready in`, `times` times over; a master that ends first is an AssertionError."""

        def is_ready() -> bool:
            if self.log_text().count("Ready in") >= times:
                return True
            if self.exit_code is not None:
                raise AssertionError(f"{self!r} before it was ready:\n{self.log_text()}")
            return False

        wait_until(is_ready, timeout_s, f"'Ready in' from {self!r}")

    def wait_for_log(self, text: str, timeout_s: float = 90.0) -> None:
        """Wait until `text` stands in the log."""
        wait_until(lambda: text in self.log_text(), timeout_s, f"{text!r} in the log of {self!r}")

    def wait_exit(self, timeout_s: float = 90.0) -> int:
        """Wait for the end of the master and return how it ended, as `exit_code` does."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self!r} did not end within {timeout_s:g}s:\n{self.log_text()}") from None

    def stop(self, timeout_s: float = _STOP_PATIENCE_S) -> None:
        """End everything: TERM to the master, then KILL to whatever is left of its session. May be called again."""
        if self.exit_code is None:
            self.signal(SIGTERM)
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.signal(SIGKILL)
                self._popen.wait(_KILL_PATIENCE_S)
        wait_until(self._kill_survivors, _KILL_PATIENCE_S, f"the end of all processes of {self!r}")
        shutil.rmtree(self._runtime, ignore_errors=True)

    @property
    def web(self) -> Web:
        """What it serves over HTTP. Its log must be in JSON, and say that it is ready."""
        return Web(self.events("service_ready")[0]["http"])

    # Its processes

    def workers(self) -> list[Process]:
        """Return the living workers, ordered by pid: the children of the master but its observer."""
        living = children(self.pid) if self.exit_code is None else []
        return [child for child in living if child.title != _OBSERVER]

    def worker_pids(self) -> list[int]:
        """Return the pids of the living children of the master, in order."""
        return [worker.pid for worker in self.workers()]

    def wait_workers(self, count: int, timeout_s: float = 90.0) -> list[Process]:
        """Wait until the master has exactly `count` living workers and return them."""
        workers: list[Process] = []

        def are_as_many() -> bool:
            workers[:] = self.workers()
            return len(workers) == count

        wait_until(are_as_many, timeout_s, f"{count} workers of {self!r}")
        return workers

    def kill_worker(self, rng: random.Random, number: Signals = SIGKILL) -> Process:
        """Send a signal to one worker chosen by `rng` and return which; after a KILL it is gone when this returns."""
        workers = self.workers()
        if not workers:
            raise AssertionError(f"{self!r} has no worker to kill")
        victim = rng.choice(workers)
        victim.signal(number)
        if number is SIGKILL:
            wait_until(lambda: not victim.is_alive, _KILL_PATIENCE_S, f"the end of {victim}")
        return victim

    def survivors(self) -> list[Process]:
        """Return the living processes of the session; after the end of the master these are orphans."""
        return in_session(self.pid)

    def _kill_survivors(self) -> bool:
        survivors = self.survivors()
        for process in survivors:
            process.signal(SIGKILL)
        return not survivors

    # Its log

    def log_text(self) -> str:
        """Return all that was written to stderr so far."""
        return self._err.read_text("utf-8", "backslashreplace")

    def log_records(self) -> list[dict[str, Any]]:
        """Return the lines of the log that are JSON objects; others (a traceback of a crash) are left out."""
        records = [_object_on(line) for line in self.log_text().split("\n")]
        return [record for record in records if record is not None]

    def events(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """Return the lines of a JSON log that are events of this name with these fields, as in log-events.md."""
        wanted = {"event": name, **fields}
        return [record for record in self.log_records() if all(record.get(key) == wanted[key] for key in wanted)]

    def wait_for_event(self, name: str, timeout_s: float = 90.0, **fields: Any) -> None:
        """Wait until the log has such an event."""
        wait_until(lambda: self.events(name, **fields), timeout_s, f"event {name} with {fields} in the log of {self!r}")

    def output_text(self) -> str:
        """Return all that was written to stdout so far."""
        return self._out.read_text("utf-8", "backslashreplace")


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MXWORKER_", "RUNTIME_DIR"))}
    without_uvloop = str(WITHOUT_UVLOOP) if _runs_on_asyncio() else None
    path = os.pathsep.join(filter(None, [without_uvloop, str(REPOSITORY), ours.get("PYTHONPATH")]))
    return {**ours, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "MXWORKER_NO_HTTP": "1", **extra}


def _runs_on_asyncio() -> bool:
    """Whether the services of the test that runs now are those without uvloop: the same for each run of it."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    return zlib.crc32(test.encode(errors="backslashreplace")) % 2 == 1


def _object_on(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
