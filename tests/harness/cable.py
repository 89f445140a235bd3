"""A network namespace beside this one, and the cable between them, which falls silent in one direction when told to.

Silent means: who sends gets no error, who should receive sees nothing, and neither is told. The sender is given a wrong
hardware address for the other end, so that its packets arrive and are not taken; no packet filter is needed.

Needs root. The cable and the namespace are gone when the block is left.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Self

_NOBODY = "02:00:00:00:00:99"


def missing_rights() -> str | None:
    """Say why no namespace can be made here, or None."""
    if shutil.which("ip") is None:
        return "the program 'ip' (iproute2) is missing"
    name = f"mxworker-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    _ip("netns", "del", name)
    return None


class Cable:
    """Joins this namespace, at the address `here`, with one of its own, at the address `there`."""

    def __init__(self) -> None:
        system = random.SystemRandom()
        network = f"198.18.{system.randrange(256)}.{4 * system.randrange(64)}"  # for such tests: RFC 2544
        prefix, _, last = network.rpartition(".")
        self.here = f"{prefix}.{int(last) + 1}"
        self.there = f"{prefix}.{int(last) + 2}"
        self._name = f"mxworker-{os.getpid()}"
        self._device = f"mxw{os.getpid()}"
        self._silent: list[tuple[str, ...]] = []

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            _ip("netns", "add", self._name)
            undo.callback(_ip, "netns", "del", self._name)
            _ip("link", "add", self._device, "type", "veth", "peer", "name", self._device, "netns", self._name)
            # by itself the cable would stay for as long as a closed socket there still has something to send
            undo.callback(_ip, "link", "del", self._device)
            for where, address in (((), self.here), (("-n", self._name), self.there)):
                _ip(*where, "address", "add", f"{address}/30", "dev", self._device)
                _ip(*where, "link", "set", self._device, "up")
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._undo.close()

    def command_there(self, command: Sequence[str]) -> list[str]:
        """Return the command that runs `command` at the other end."""
        return ["ip", "netns", "exec", self._name, *command]

    def silence_from_here(self) -> None:
        """Let nothing more that is sent here arrive there."""
        self._silence((), self.there)

    def silence_from_there(self) -> None:
        """Let nothing more that is sent there arrive here."""
        self._silence(("-n", self._name), self.here)

    def _silence(self, where: tuple[str, ...], address: str) -> None:
        _ip(*where, "neigh", "replace", address, "lladdr", _NOBODY, "dev", self._device, "nud", "permanent")
        self._silent.append((*where, "neigh", "del", address, "dev", self._device))

    def heal(self) -> None:
        """Let everything arrive again; what still waits in the kernels is sent once more."""
        for command in self._silent:
            _ip(*command)
        self._silent.clear()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
