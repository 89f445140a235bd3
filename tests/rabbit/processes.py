"""Processes that cannot be left behind: how a node's processes are started, found and ended.

Three ropes, because each can break. They die with the *thread* that started them (PR_SET_PDEATHSIG, prctl(2), set by
setpriv before it becomes the program), so a test run killed with SIGKILL leaves nothing. They carry a mark in their
environment, by which helpers that Erlang starts on its own are found. And the owner stops them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

DIES_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
MARK = "MXWORKER_TEST_NODE"
POLL_S = 0.02


def spawn(command: Sequence[str | Path], env: Mapping[str, str], cwd: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, with stdout and stderr appended to `output`.

    You must call this from a thread that outlives the process, or the kernel kills it when the thread ends.
    """
    with output.open("ab") as log:
        return subprocess.Popen(
            [*DIES_WITH_PARENT, *map(str, command)],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes], signum: signal.Signals, patience_s: float) -> None:
    """Send `signum` to `process` and reap it; after `patience_s`, SIGKILL. A process that has ended is only reaped."""
    process.send_signal(signum)
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def mark(folder: Path) -> dict[str, str]:
    """Return what marks the processes of the node in `folder`, and of no folder of that name under another root."""
    found = folder.stat()
    return {MARK: f"{folder} {found.st_dev}:{found.st_ino}"}


def marked(folder: Path) -> list[int]:
    """Return the pids of the living processes that carry the mark of `folder`."""
    if not folder.exists():  # no node was started in it
        return []
    wanted = f"{MARK}={mark(folder)[MARK]}".encode()
    return [int(path.parent.name) for path in Path("/proc").glob("[0-9]*/environ") if wanted in _environment(path)]


def end_marked(folder: Path, patience_s: float) -> None:
    """Wait until no process carries the mark of `folder`; after `patience_s`, SIGKILL those that do."""
    deadline = time.monotonic() + patience_s
    while pids := marked(folder):
        if time.monotonic() >= deadline:
            for pid in pids:
                _kill(pid)
        time.sleep(POLL_S)


def _environment(path: Path) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\0")
    except OSError:
        return []  # it ended meanwhile, or belongs to somebody else


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
