"""What a command that takes letters out of a queue asks before it does, and how it is stopped."""

from __future__ import annotations

import signal
import sys

import click

from mxworker.errors import ExitCode


def confirmed(what: str, letters: int, yes: bool) -> bool:
    """Tell whether to go on: with --yes, or when somebody at the terminal types the number of letters.

    Otherwise say that this was a dry run. `what` is the deed, such as "replay 3 letters from a to b".
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        click.echo(f"This was a dry run. To {what}, add --yes.", err=True)
        return False
    click.echo(f"To {what}, type {letters}: ", err=True, nl=False)
    answer = sys.stdin.readline().strip().replace(",", "")
    if answer != str(letters):
        click.echo("Nothing was done.", err=True)
        return False
    return True


class Interruption:
    """Turns the first Ctrl-C or SIGTERM into a reason to stop, so that what is on its way is finished. Call `watch`."""

    def __init__(self) -> None:
        self.why: str | None = None

    def watch(self) -> None:
        """Begin to watch, in the running event loop. A second signal ends the process at once."""
        import asyncio  # loaded already, and not with the command line

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)

    def _stop(self) -> None:
        if self.why is not None:
            sys.stdout.flush()
            sys.exit(ExitCode.FORCED)
        self.why = "interrupted"

    @property
    def exit_code(self) -> ExitCode | None:
        """The exit code of an interrupted command, None when it was not interrupted."""
        return None if self.why is None else ExitCode.FORCED
