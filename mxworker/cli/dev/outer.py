"""The outer process of `mxworker dev`: it keeps the service running and makes it reload when a file changes.

The service runs in a separate process, so that the threads of the file watcher stay away from its forks.

    event                          action
    -----                          ------
    a file changed                 HUP to the service, which replaces its workers; without a service, start it
    the service ended              log that; the next change, or the key r, starts it again
    TERM, INT or QUIT              the same signal to the service; this process exits with the service's exit code
    INT or QUIT from a terminal    as above, but no signal: the terminal has sent it to the whole process group
    HUP, and the terminal has gone TERM to the service, as above
    HUP otherwise, USR1, USR2      the same signal to the service
    a key of the terminal          r as a changed file, d as USR1, q as TERM; the others are answered by `console`

This module must not know RabbitMQ, the board or user code. There is at most one service, and it does not outlive this
process (the service sees to that itself, with `child.bind_to_parent`). Signals are blocked, and taken between two looks
at the files. The service inherits the blocked signals and unblocks them when it can handle them, so that no signal is
lost or kills it while it starts. A change that comes while a service fails to start starts the next one.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mxworker.cli.dev.keys import Key
from mxworker.cli.dev.sources import changes
from mxworker.errors import ExitCode
from mxworker.system.log import is_json, say
from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign
from mxworker.system.terminal import SETTLES_S, Terminal

if TYPE_CHECKING:
    from mxworker.cli.dev.console import Console
    from mxworker.devbroker.keeping import KeptBroker

log = logging.getLogger("mxworker.dev")

SHOWN_FILES = 3

_STOPS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGQUIT})
_TAKEN = _STOPS | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_KEYS = frozenset({signal.SIGINT, signal.SIGQUIT})
_NEVER_SERVED = frozenset({ExitCode.USAGE, ExitCode.APP_LOAD, ExitCode.BROKER, ExitCode.NEVER_READY})
_SI_KERNEL = 0x80  # sigaction(2): sent by the kernel, so here by the terminal


def run(
    command: Sequence[str],
    environment: Mapping[str, str],
    watched: Sequence[Path],
    terminal: Terminal,
    embedded: KeptBroker | None = None,
    console: Console | None = None,
) -> int:
    """Keep `command` running and reloading until a signal stops it; return its exit code, 128 + N after signal N.

    `embedded` is the service's own broker, which is kept running too. With a `console`, which is closed at the end, the
    service has no stdin: the keys are for the console. Call this from the main thread, which must live as long as the
    service. The signals of this process stay blocked. Raises ConfigError when the directories cannot be watched.
    """
    with ExitStack() as closing:
        if console is not None:
            closing.callback(console.close)
        signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
        _tell_watched(watched)
        news = changes(watched)
        next(news)  # from here on every change is noticed
        outer = _Outer(command, environment, terminal, console)
        for changed in news:
            if embedded is not None:
                embedded.act(time.monotonic_ns())
            code = outer.turn(changed)
            if code is not None:
                return code
    raise AssertionError("the watching of files has ended")  # only a stop event could end it, and it has none


def _tell_watched(watched: Sequence[Path]) -> None:
    """Say what is watched, in a text log as one of the facts that the service shows."""
    folders = ", ".join(map(foreign, watched))
    if is_json():
        log.info("watching %s", folders, extra=log_event("dev_watching"))
    elif log.isEnabledFor(logging.INFO):
        say(f"{'watching':<11} {folders}")


class _Outer:
    """The service that runs now, or the exit code of the last one."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], terminal: Terminal, console: Console | None
    ) -> None:
        """Start the service."""
        self._command = command
        self._environment = environment
        self._terminal = terminal
        self._console = console
        self._hang_up_until: float | None = None
        self._code: int = ExitCode.OK
        self._is_stopping = False
        self._has_changed = False  # since the last start
        self._service: subprocess.Popen[bytes] | None = self._start()

    def turn(self, changed: Sequence[str]) -> int | None:
        """Handle signals, the end of the service and changed files, in this order; return the exit code when done."""
        while (sent := signal.sigtimedwait(_TAKEN, 0)) is not None:
            self._obey(signal.Signals(sent.si_signo), is_by_terminal=sent.si_code == _SI_KERNEL)
        self._tell_hang_up_from_reload()
        self._notice_end()
        self._take_keys()
        if self._is_stopping:
            return self._code if self._service is None else None
        if changed:
            self._renew(in_words(changed))
        return None

    def _take_keys(self) -> None:
        if self._console is None:
            return
        for key in self._console.turn(None if self._service is None else self._service.pid):
            match key:
                case Key.DRAIN:
                    self._obey(signal.SIGTERM, is_by_terminal=False)
                case Key.DUMP:
                    self._pass_on(signal.SIGUSR1)
                case Key.RELOAD if not self._is_stopping:
                    self._renew("key r")

    def _obey(self, signum: signal.Signals, is_by_terminal: bool) -> None:
        if signum is signal.SIGHUP:
            self._hang_up_until = time.monotonic() + (SETTLES_S if self._terminal.was_there else 0)
            return
        if signum in _STOPS:
            self._is_stopping = True
        if not (is_by_terminal and signum in _KEYS):
            self._pass_on(signum)

    def _tell_hang_up_from_reload(self) -> None:
        """Stop when the SIGHUP came because the terminal has gone; otherwise pass the signal on."""
        if self._hang_up_until is None:
            return
        if self._terminal.has_gone:
            self._hang_up_until = None
            log.info("the terminal has gone", extra=log_event("dev_terminal_lost"))
            self._is_stopping = True
            self._pass_on(signal.SIGTERM)
        elif time.monotonic() >= self._hang_up_until:
            self._hang_up_until = None
            self._pass_on(signal.SIGHUP)

    def _pass_on(self, signum: signal.Signals) -> None:
        if self._service is not None:
            self._service.send_signal(signum)

    def _notice_end(self) -> None:
        """Notice that the service has ended; start it again at once when a file changed before it could serve."""
        if self._service is None or (ended := self._service.poll()) is None:
            return
        self._service = None
        self._code = ended if ended >= 0 else 128 - ended
        if self._is_stopping:
            return
        facts = log_event("dev_service_ended", exit_code=self._code)
        if self._has_changed and ended in _NEVER_SERVED:
            text = "the service ended with exit code %d, after a file changed; starting it again"
            log.info(text, self._code, extra=facts)
            self._service = self._start()
        else:
            starter = "the next change" if self._console is None else "the next change, or the key r,"
            log.warning("the service ended with exit code %d; %s starts it again", self._code, starter, extra=facts)

    def _start(self) -> subprocess.Popen[bytes]:
        self._has_changed = False
        keyboard = None if self._console is None else subprocess.DEVNULL
        return subprocess.Popen(self._command, env=self._environment, stdin=keyboard)  # noqa: S603 - our own command

    def _renew(self, why: str) -> None:
        """Have the service load its code again, or start it."""
        if self._service is None:
            log.info("%s; starting the service", why, extra=log_event("dev_start"))
            self._service = self._start()
            return
        log.info("%s; reloading", why, extra=log_event("dev_reload"))
        self._has_changed = True
        self._service.send_signal(signal.SIGHUP)
        if self._console is not None:
            self._console.reload_began()


def in_words(changed: Sequence[str]) -> str:
    """Return `a.py, b.py, c.py and 2 more changed`."""
    more = f" and {len(changed) - SHOWN_FILES} more" if len(changed) > SHOWN_FILES else ""
    return f"{', '.join(map(foreign, changed[:SHOWN_FILES]))}{more} changed"
