"""A person at a terminal: a real pty, on which a shell with job control runs what is typed."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.harness.processes import in_session
from tests.harness.waiting import wait_until

_LOCAL_MODES = 3
_ENTRY = (
    "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR); "
    "[os.dup2(fd, number) for number in (0, 1, 2)]; os.execlp('sh', 'sh', '-i')"
)
_PROMPT = "ready> "


class Shell:
    """`sh -i`, which is the leader of its session, on a terminal of its own."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._master, terminal = pty.openpty()
        self._shown = bytearray()
        self._seen = 0
        name = os.ttyname(terminal)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ENTRY, name],
            cwd=directory,
            env={**environment, "PS1": _PROMPT, "ENV": "", "TERM": "dumb"},
            start_new_session=True,  # so that the terminal that it opens becomes its own: credentials(7)
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._terminal = terminal  # kept open: the modes of a terminal that nobody has open are forgotten
        self.wait_for(_PROMPT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            sys.stdout.write(self.screen())
        self._process.kill()
        self._process.wait()
        wait_until(self._kill_all, 20, "the end of what was started on the terminal")
        for fd in (self._master, self._terminal):
            os.close(fd)

    @property
    def pid(self) -> int:
        """The pid of the shell."""
        return self._process.pid

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def run(self, *command: str) -> None:
        """Type a command and press Enter."""
        self.type(f"{' '.join(command)}\n")

    def screen(self) -> str:
        """Return all that was ever shown."""
        while select.select([self._master], [], [], 0)[0]:
            self._shown += os.read(self._master, 65536)
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def wait_for(self, text: str) -> str:
        """Wait until `text` is shown after what was waited for before; return what was shown up to it."""
        wait_until(lambda: text in self.screen()[self._seen :], 60, f"{text!r} on the terminal")
        begins = self._seen
        self._seen = self.screen().index(text, begins) + len(text)
        return self.screen()[begins : self._seen]

    def wait_for_prompt(self) -> str:
        """Wait until the shell takes the next command; return what was shown until then."""
        return self.wait_for(_PROMPT)

    def wait_end(self) -> int:
        """Wait for the end of the shell, or of what it has become by `exec`, and return its exit code."""
        return self._process.wait(60)

    @property
    def takes_lines(self) -> bool:
        """Whether the terminal is as a shell leaves it: it edits lines, and shows what is typed."""
        modes = termios.tcgetattr(self._terminal)[_LOCAL_MODES]
        return bool(modes & termios.ICANON) and bool(modes & termios.ECHO)

    def wait_until_keys_count(self) -> None:
        """Wait until a program has taken the terminal to read keys one by one."""
        wait_until(lambda: not self.takes_lines, 60, "a program that reads keys")

    def _kill_all(self) -> bool:
        left = in_session(self._process.pid)
        for process in left:
            process.signal(signal.SIGKILL)
        return not left


def pause() -> None:
    """Let a looking program look several times: what must not happen has had its chance then."""
    time.sleep(0.3)
