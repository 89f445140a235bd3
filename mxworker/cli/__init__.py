"""The command line, and the one place that puts the parts together: a module for each command, or few that are alike.

Everything heavy is imported inside the commands: `mxworker --help` must stay quick.
"""

from __future__ import annotations

from typing import Any

import click

from mxworker import __version__
from mxworker.cli.ctl import ctl, status
from mxworker.cli.dev.command import dev
from mxworker.cli.help import EXIT_CODES, Group
from mxworker.cli.run import run
from mxworker.system.stderr import open_closed_streams


class _Commands(Group):
    """Our commands, with the standard streams they need."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Open streams that are closed (`2>&-`) before anything else, since click's own output needs them."""
        open_closed_streams()
        return super().main(*args, **kwargs)


@click.group(cls=_Commands, exit_codes=EXIT_CODES, examples=("mxworker run --help", "mxworker ctl stop --help"))
@click.version_option(__version__, prog_name="mxworker")
def main() -> None:
    """Run a service of several worker processes that consume queues of RabbitMQ."""


for command in (run, dev, status, ctl):
    main.add_command(command)
