"""`mxworker broker`: the embedded broker alone, for other programs and for looking around."""

from __future__ import annotations

import os

import click

from mxworker.cli.help import EXIT_CODES, Command, option
from mxworker.cli.settings import errors_told
from mxworker.errors import ConfigError

_ADDRESS = "Address"


@click.command(cls=Command, exit_codes=EXIT_CODES, examples=("mxworker broker", "mxworker broker --port 5673"))
@option(
    "--host",
    default="127.0.0.1",
    section=_ADDRESS,
    metavar="ADDRESS",
    show_default=True,
    help="The address to listen on. Anybody who reaches it can connect as guest.",
)
@option(
    "--port",
    type=click.IntRange(0, 65535),
    default=5672,
    section=_ADDRESS,
    metavar="PORT",
    show_default=True,
    help="The port to listen on; 0 takes any free port.",
)
def broker(host: str, port: int) -> None:
    """Run the embedded broker, which is for development.

    It speaks AMQP 0-9-1 and keeps messages in memory, so they are lost when it ends. Clients connect as guest,
    with the password guest.
    """
    from mxworker.devbroker.process import refuse_production
    from mxworker.devbroker.serving import serve, warning
    from mxworker.devbroker.settings import Settings
    from mxworker.system.log import set_up

    set_up("info")
    with errors_told():
        refuse_production(os.environ)
        try:
            serve(Settings(host=host, port=port), lambda url: click.echo(warning(url)))
        except OSError as error:
            raise ConfigError(f"The embedded broker cannot listen on {host}:{port}: {error.strerror}.") from error
