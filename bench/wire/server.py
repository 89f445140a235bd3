"""Start a wire server, compiled from C when this machine has a compiler, else in Python."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.environments import cache_folder
from bench.wire.replies import records, replies
from tests.harness.repository import REPOSITORY
from tests.rabbit.processes import DIES_WITH_PARENT

SOURCE = Path(__file__).with_name("server.c")
IN_PYTHON = (sys.executable, "-m", "bench.wire.plain_server")
_STOP_S = 10.0


class Counts(NamedTuple):
    """What the clients of a server have done."""

    delivered: int
    settled: int
    published: int


class WireServer:
    """A server with one queue, which holds `deliveries` messages."""

    def __init__(self, queue: str, deliveries: int, body_bytes: int, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*DIES_WITH_PARENT, *command, str(deliveries), queue],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=REPOSITORY,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        prepared = records(replies(queue, body_bytes))
        self._process.stdin.write(len(prepared).to_bytes(8, "big") + prepared)
        self._process.stdin.flush()
        self.url = f"amqp://guest:guest@127.0.0.1:{int(self._process.stdout.readline())}/"

    def stop(self) -> Counts:
        """End the server, and return what was counted."""
        output, _ = self._process.communicate(timeout=_STOP_S)
        return Counts(*map(int, output.split()))

    def kill(self) -> None:
        """End the server, whatever it does."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def wire_server(
    queue: str, deliveries: int, body_bytes: int = 256, command: Sequence[str] | None = None
) -> Iterator[WireServer]:
    """Lend a server; it ends with the block."""
    server = WireServer(queue, deliveries, body_bytes, command or server_command())
    try:
        yield server
    finally:
        server.kill()


def server_command() -> Sequence[str]:
    """Return the fastest server of this machine, compiled if need be."""
    return (str(compiled),) if (compiled := compile_server()) else IN_PYTHON


def compile_server() -> Path | None:
    """Return the server compiled from C, or None when there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not SOURCE.exists():
        return None
    made = cache_folder() / f"wire-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([compiler, "-O2", "-Wall", "-Werror", "-o", f"{made}.new", str(SOURCE)], check=True)
        Path(f"{made}.new").replace(made)
    return made
