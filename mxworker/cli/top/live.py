"""The live screen of `mxworker top`: look, draw, wait; and the terminal as it was before, however it ends."""

from __future__ import annotations

import time

from rich.console import Console
from rich.live import Live

from mxworker.cli.top.frame import frame
from mxworker.cli.top.keyboard import Event, Keyboard, stop_here
from mxworker.cli.top.screen import drawn
from mxworker.cli.top.watch import Sight, Watch

_FOOT = "q quits."


def show(watch: Watch, interval_s: float) -> None:
    """Show the service until the user quits. Raises MxWorkerError when it does not answer at first."""
    sight = watch.first()
    console = Console(highlight=False)
    while True:
        with (
            Keyboard() as keyboard,
            Live(
                console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            ) as live,
        ):
            event, sight = _watched(watch, sight, interval_s, keyboard, console, live)
        if event is Event.QUIT:
            return
        stop_here()


def _watched(
    watch: Watch, sight: Sight, interval_s: float, keyboard: Keyboard, console: Console, live: Live
) -> tuple[Event, Sight]:
    """Look and draw until the user quits or suspends, and return which, with the last sight."""
    due_at = time.monotonic()
    while True:
        width, height = console.size
        shown = frame(sight.view, width, height, sight.silence, sight.seen_s, _FOOT)
        live.update(drawn(shown), refresh=True)
        event = keyboard.wait(due_at)
        if event in (Event.QUIT, Event.SUSPEND):
            return event, sight
        if event is Event.DUE:
            sight = watch.look()
            due_at = max(due_at + interval_s, time.monotonic())
