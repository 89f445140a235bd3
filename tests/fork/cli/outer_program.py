"""The outer process of `mxworker dev` with a made-up service, run as a program of its own by `test_dev.py`.

`python -m tests.fork.cli.outer_program outer FOLDER [--terminal PATH] [--keys]` watches FOLDER. The service does
what the first line of FOLDER/app.py says after its `#`, and tells on stderr what happens to it. With `--keys` its
terminal has keys, and p crashes the outer process, because there is no program to publish samples.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from mxworker.cli.dev import outer
from mxworker.cli.dev.console import Console, SampleProcess
from mxworker.cli.dev.inquiry import Inquiry
from mxworker.cli.dev.keyboard import Keyboard, has_keyboard
from mxworker.cli.dev.wanted import Wanted
from mxworker.control.protocol import Identity
from mxworker.system.terminal import Terminal

TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1)
TURN_S = 0.01
LEAVES_WITH = 7

asked: list[int] = []


def say(what: str) -> None:
    os.write(2, f"service: {what}\n".encode())


def take(signum: int, frame: FrameType | None) -> None:
    say(f"got {signal.Signals(signum).name}")
    asked.append(signum)


def turn_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(TURN_S)


def listen() -> None:
    for signum in TOLD:
        signal.signal(signum, take)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TOLD)


def serve() -> int:
    listen()
    say("serves")
    turn_until(lambda: {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT} & set(asked))
    return LEAVES_WITH


def drains() -> int:
    """Leave at the second word, so that all of the first one has arrived."""
    listen()
    say("serves")
    turn_until(lambda: signal.SIGUSR1 in asked)
    return LEAVES_WITH


def comes_up_slowly() -> int:
    turn_until(lambda: signal.SIGTERM in signal.sigpending())
    return serve()


def fails() -> int:
    return 3


def fails_after_hup() -> int:
    listen()
    say("loads")
    turn_until(lambda: signal.SIGHUP in asked)
    return 3


def leaves_after_hup() -> int:
    fails_after_hup()
    return 0


BEHAVIOURS = {
    behaviour.__name__: behaviour
    for behaviour in (serve, drains, comes_up_slowly, fails, fails_after_hup, leaves_after_hup)
}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["outer", "service"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keys", action="store_true", help="take keys, if there is a keyboard")
    parser.add_argument("--terminal", type=Path, help="become the foreground of this terminal")
    options = parser.parse_args()
    if options.role == "service":
        behaviour = (options.folder / "app.py").read_text().splitlines()[0].removeprefix("#").strip()
        say(f"started to {behaviour}")
        return BEHAVIOURS[behaviour]()
    logging.basicConfig(level="INFO", format="%(message)s")
    if options.terminal:
        os.open(options.terminal, os.O_RDWR)  # a session leader without one gets it as its own: credentials(7)
    command = [sys.executable, "-m", "tests.fork.cli.outer_program", "service", str(options.folder)]
    console = make_console() if options.keys and has_keyboard() else None
    return outer.run(command, os.environ, [options.folder], Terminal(), console=console)


def make_console() -> Console:
    samples = SampleProcess(["/no/such/program"], os.environ, Wanted("app", None, False, (), (), None, None, None, 1))
    return Console(Keyboard(), Inquiry(Identity("no such service"), None), samples)


if __name__ == "__main__":
    sys.exit(main())
