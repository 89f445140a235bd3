"""The group of the commands for dead letters. `mxworker dlq QUEUE` is `mxworker dlq stats QUEUE`."""

from __future__ import annotations

import click

from mxworker.cli.broker_options import EXIT_CODES
from mxworker.cli.dlq.files import export, import_, purge
from mxworker.cli.dlq.looking import list_, show, stats
from mxworker.cli.dlq.moving import move, replay
from mxworker.cli.help import Group


class _StatsByDefault(Group):
    """Takes a first word that is no command for the queue of `stats`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `stats` before the name of a queue."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = [stats.name or "", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_StatsByDefault,
    exit_codes=EXIT_CODES,
    examples=("mxworker dlq orders", "mxworker dlq list orders --error ValueError"),
)
def dlq() -> None:
    """Look at dead letters, and replay, export, move or purge them.

    QUEUE is the queue that they could not be handled from. Dead letters are in QUEUE.dlq, and messages that have
    killed workers in QUEUE.quarantine.
    """


for command in (stats, list_, show, replay, move, export, import_, purge):
    dlq.add_command(command)
