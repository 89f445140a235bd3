"""The command line, and the one place that puts the parts together: a module for each command, or few that are alike.

Everything heavy is imported inside the commands: `mxworker --help` must stay quick.
"""

from __future__ import annotations

import click

from mxworker import __version__
from mxworker.cli.control import ctl, status
from mxworker.cli.dev import dev
from mxworker.cli.run import run


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="mxworker")
def main() -> None:
    """Run a multi-process RabbitMQ worker service."""


for command in (run, dev, status, ctl):
    main.add_command(command)
