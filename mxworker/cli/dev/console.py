"""The person before the terminal of `mxworker dev`: keys, their answers, and an error that has to stay in sight.

Nothing here waits. A separate process loads the application and publishes its samples. A thread asks for the status of
the service. Keys that mean a reload, a dump or a drain are returned to the outer process, which does what they ask for.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mxworker.cli.dev.inquiry import Inquiry
from mxworker.cli.dev.keyboard import Keyboard
from mxworker.cli.dev.keys import HINT, Key, keys_in
from mxworker.cli.dev.refused_reload import RefusedReload
from mxworker.cli.dev.wanted import Wanted
from mxworker.system.log import say
from mxworker.system.printable import foreign


class SampleProcess:
    """The process that publishes samples; at most one runs."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], wanted: Wanted) -> None:
        """`command` reads `wanted` on its stdin."""
        self._command = command
        self._environment = environment
        self._wanted = wanted
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        """Start it, and return whether the one before has ended. Call this from the main thread, as its parent."""
        if self._process is not None and self._process.poll() is None:
            return False
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            self._command, env=self._environment, stdin=subprocess.PIPE
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as told:  # a process that has ended has said why
            told.write(self._wanted.line())
        return True

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Console:
    """Use `turn` again and again, and `close` at the end."""

    def __init__(self, keyboard: Keyboard, inquiry: Inquiry, samples: SampleProcess) -> None:
        """Own all three from now on."""
        self._keyboard = keyboard
        self._inquiry = inquiry
        self._samples = samples
        self._refused = RefusedReload()
        self._wants_page = False

    def turn(self, service: int | None) -> list[Key]:
        """Take keys and answers of the service with this pid; return the keys that are for the service."""
        now = time.monotonic()
        keys = keys_in(self._keyboard.look())
        for key in keys:
            self._answer(key, service)
        if service is None:
            self._refused.service_ended()
        else:
            self._follow(service, now)
        return [key for key in keys if key in (Key.RELOAD, Key.DUMP, Key.DRAIN)]

    def reload_began(self) -> None:
        """Look at how the reload ends that the service was told to do."""
        self._refused.reload_began(time.monotonic())

    def close(self) -> None:
        """Restore the terminal, and end what was begun."""
        self._keyboard.close()
        self._samples.stop()

    def _answer(self, key: Key, service: int | None) -> None:
        match key:
            case Key.HELP:
                say(HINT)
            case Key.BLANK:
                say("")
            case Key.PUBLISH if not self._samples.start():
                say("The samples of the last p are still on their way.")
            case Key.PAGE if service is None:
                say("The service does not run, so it has no page.")
            case Key.PAGE:
                self._wants_page = True
                self._inquiry.ask()

    def _follow(self, service: int, now: float) -> None:
        """Show what the service has answered, and ask again when that is due."""
        status = self._inquiry.answer(service)
        if status is not None:
            if self._wants_page:
                say(_page(status))
            self._wants_page = False
            again = self._refused.take(status, now) if self._refused.look_at is not None else None
            if again is not None:
                say(again)
        elif self._refused.look_at is not None and now >= self._refused.look_at:
            self._inquiry.ask()


def _page(status: Mapping[str, Any]) -> str:
    if not status:
        return "The service does not answer yet."
    return foreign(status["http"]) if status["http"] else "There is no page: the service serves no HTTP."
