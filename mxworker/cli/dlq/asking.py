"""What a command that takes letters out of a queue asks before it does."""

from __future__ import annotations

import sys

import click


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
