"""The command line, which puts the parts of a service together. A module holds one command, or a few that are alike.

Heavy modules are imported inside the commands, so that `mxworker --help` is quick.
"""

from __future__ import annotations

from typing import Any

import click

from mxworker import __version__
from mxworker.cli.broker import broker
from mxworker.cli.check.command import check
from mxworker.cli.config.command import config
from mxworker.cli.ctl import ctl, status
from mxworker.cli.dev.command import dev
from mxworker.cli.dlq.command import dlq
from mxworker.cli.help import EXIT_CODES, Group
from mxworker.cli.publish.command import publish
from mxworker.cli.run import run
from mxworker.cli.top.command import top
from mxworker.system.stderr import open_closed_streams


class _Commands(Group):
    """The top-level commands. They open missing standard streams first."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Open closed standard streams (`2>&-`) before anything else, since the output of click needs them."""
        open_closed_streams()
        return super().main(*args, **kwargs)


@click.group(cls=_Commands, exit_codes=EXIT_CODES, examples=("mxworker run --help", "mxworker ctl stop --help"))
@click.version_option(__version__, prog_name="mxworker")
def main() -> None:
    """Run a service of several worker processes that consume queues of RabbitMQ."""


for command in (run, dev, check, status, top, ctl, publish, dlq, config, broker):
    main.add_command(command)
