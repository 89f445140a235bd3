"""Run many `mxworker` commands to their ends, a few at a time, without importing everything anew for each.

This module is also the program that does it: each command runs in a fork of a process that has imported mxworker, in a
session of its own, with its own directory, environment and output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.harness.repository import REPOSITORY

AT_ONCE = 4
_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Command:
    """A command line without `mxworker`, and where it runs."""

    arguments: Sequence[str]
    directory: str
    env: Mapping[str, str]


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it printed to both streams; minus the signal for one that was killed."""

    exit_code: int
    output: str


def run_all(commands: Mapping[str, Command], scratch: Path) -> dict[str, Ended]:
    """Run the commands, and return how each one ended, under its name."""
    jobs = {name: asdict(command) for name, command in commands.items()}
    (scratch / "jobs.json").write_text(json.dumps(jobs))
    environment = {"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-m", __name__, str(scratch)], env=environment, check=True, cwd=REPOSITORY)
    ends: dict[str, int] = json.loads((scratch / "ends.json").read_text())
    texts = {name: (scratch / f"{number}.out").read_text("utf-8", "replace") for number, name in enumerate(jobs)}
    return {name: Ended(ends[name], texts[name]) for name in jobs}


def _main(scratch: Path) -> None:
    import mxworker.master.loop
    import mxworker.worker.main  # noqa: F401 - what `run` imports
    from mxworker.cli import main

    jobs = json.loads((scratch / "jobs.json").read_text())
    waiting = list(enumerate(jobs.items()))
    running: dict[int, tuple[str, float]] = {}
    ends: dict[str, int] = {}
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            number, (name, job) = waiting.pop(0)
            pid = os.fork()
            if pid == 0:
                _become(main, job, scratch / f"{number}.out")
            running[pid] = name, time.monotonic() + _PATIENCE_S
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            ends[running.pop(pid)[0]] = os.waitstatus_to_exitcode(status)
        for each, (_, deadline) in running.items():
            if time.monotonic() > deadline:
                os.killpg(each, signal.SIGKILL)
        time.sleep(0.01)
    (scratch / "ends.json").write_text(json.dumps(ends))


def _become(main: object, job: Mapping[str, object], output: Path) -> None:
    """Run a command in this process, which is a fork, and end it."""
    code = 1
    try:
        os.setsid()
        os.chdir(str(job["directory"]))
        os.environ.clear()
        os.environ.update(job["env"])  # type: ignore[arg-type]
        to = os.open(output, os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(to, 1)
        os.dup2(to, 2)
        sys.argv = ["mxworker", *job["arguments"]]  # type: ignore[misc]
        main()  # type: ignore[operator]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
