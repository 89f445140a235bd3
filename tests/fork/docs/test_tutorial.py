"""docs/tutorial.md, walked from its beginning to its end: each command is run, and what the page shows must come.

Numbers on the page stand for numbers, and `...` for anything. Only the port of the broker is another one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT

import pytest

from tests.harness.pages import TESTED_BY, Block, blocks
from tests.harness.repository import REPOSITORY
from tests.harness.service import Service
from tests.harness.shown import sessions, shows
from tests.harness.waiting import wait_until
from tests.rabbit.ports import free_port

PAGE = REPOSITORY / "docs" / "tutorial.md"
PATIENCE_S = 60.0
STAYS = ("mxworker broker", "mxworker run")
WORKER_1 = re.compile(r"^ +1 +(\d+) +ready", re.MULTILINE)


class Reader:
    """Does what the page says, in a directory of its own."""

    def __init__(self, folder: Path, runtime: str) -> None:
        self._folder = folder
        self._port = str(free_port())
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._env = {"PATH": path, "XDG_RUNTIME_DIR": runtime, "MXWORKER_LOG_FORMAT": "text", "MXWORKER_NO_HTTP": "0"}
        self._pid_on_the_page = self._pid = "?"
        self.running: list[Service] = []

    @property
    def service(self) -> Service:
        """The service of the page, which was started last."""
        return self.running[-1]

    def follow(self, block: Block) -> None:
        text = block.text.replace("5672", self._port)
        match block.language, block.marks[TESTED_BY].rpartition(" ")[2]:
            case "python", _:
                (self._folder / text.split()[1]).write_text(text)
            case "console", _:
                for command, shown in sessions(text):
                    self._type(command, shown)
            case "text", "log":
                if "stopped" in text:
                    self.service.signal(SIGINT)
                self._wait_for(text)
            case other:
                raise AssertionError(f"{block} cannot be followed: {other}")

    def _type(self, command: str, shown: str) -> None:
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self._env[name] = value
        elif command.startswith(STAYS):
            name = f"service-{len(self.running)}"
            self.running.append(Service(["bash", "-c", f"exec {command}"], self._folder, name=name, env=self._env))
            self._wait_for(shown)
        else:
            self._run(command, shown)

    def _wait_for(self, shown: str) -> None:
        def is_shown() -> bool:
            return shows(shown, self.service.output_text() + self.service.log_text())

        wait_until(is_shown, PATIENCE_S, f"{shown} of {self.service}")

    def _run(self, command: str, shown: str) -> None:
        """Run a command to its end; one that only looks is repeated until it shows what the page does."""
        command = command.replace(f"kill -9 {self._pid_on_the_page}", f"kill -9 {self._pid}")
        if "kill" in command:
            assert int(self._pid) in self.service.worker_pids()
        changes = command.startswith(("mxworker publish", "seq"))
        said: list[str] = []

        def is_as_shown() -> bool:
            said.append(self._output(command))
            return shows(shown, said[-1])

        if changes:
            assert is_as_shown(), said[-1]
        else:
            wait_until(is_as_shown, PATIENCE_S, f"{shown} from {command}")
        if workers := WORKER_1.search(said[-1]):
            self._pid = workers[1]
            self._pid_on_the_page = WORKER_1.search(shown)[1]  # type: ignore[index]

    def _output(self, command: str) -> str:
        env = {**os.environ, **self._env}
        done = subprocess.run(
            ["bash", "-c", command], cwd=self._folder, env=env, capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    folder = tmp_path / "shop"
    folder.mkdir()
    runtime = tempfile.mkdtemp(prefix="mx-")  # short, as the address of a socket has to be
    reader = Reader(folder, runtime)
    yield reader
    for service in reversed(reader.running):
        service.stop()
    shutil.rmtree(runtime)


def test_tutorial_leads_where_it_says(reader: Reader) -> None:
    for block in blocks(PAGE):
        if TESTED_BY in block.marks:
            reader.follow(block)
    assert reader.service.wait_exit() == 0
    killed = [line for line in reader.service.log_text().splitlines() if "SIGKILL" in line]
    assert len(killed) == 1
    assert "messages go back to the broker" in killed[0]
