"""`mxworker publish`.

Exit codes: 0 every message is confirmed; 1 some are not, each named on stderr; 2, 3, 4 as for `run`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from mxworker.cli.asking import fail
from mxworker.cli.broker_options import EXIT_CODES, brokers_of, ended, of_broker
from mxworker.cli.config.options import BY_KEY, options_of, with_options
from mxworker.cli.help import Command
from mxworker.cli.interruption import Interruption
from mxworker.cli.output import as_json
from mxworker.cli.publish.bodies import STDIN, Body, Lines, content_type_of, same, size_of, whole
from mxworker.config.bounds import DEFAULT_MAX_PUBLISH_BYTES
from mxworker.errors import ConfigError, ExitCode, MxWorkerError

if TYPE_CHECKING:
    from mxworker.brokers import Brokers
    from mxworker.cli.publish.sending import Sent

_ANY = "none"


@dataclass(frozen=True, slots=True)
class _Bodies:
    """What is published; `messages` and `size_bytes` tell how much that is, as far as it is known."""

    bodies: Iterator[Body]
    messages: int | None = None
    size_bytes: int | None = None


@click.command(
    cls=Command,
    exit_codes={
        ExitCode.OK: "every message is confirmed",
        ExitCode.RUNTIME: "some messages are not; stderr names each, and why",
        ExitCode.USAGE: EXIT_CODES[ExitCode.USAGE],
        ExitCode.APP_LOAD: "the application of --sample cannot be loaded",
        ExitCode.BROKER: "the broker was unreachable or refused the connection",
        ExitCode.FORCED: "interrupted by Ctrl-C",
    },
    examples=(
        """mxworker publish orders '{"id": 1, "total": 5}'""",
        "mxworker publish orders --file orders.ndjson --rate 100",
        "mxworker publish orders --sample app:handlers --count 1000",
        "mxworker publish new.eu --exchange shop --header tenant=acme - < order.json",
    ),
)
@click.argument("queue")
@click.argument("body", required=False)
@of_broker
@with_options(options_of([BY_KEY["app-dir"], BY_KEY["insecure-app-dir"]]))
@click.option(
    "--file",
    metavar="FILE",
    show_default=_ANY,
    help="Publish each line of this file, which must be JSON; - is stdin. The file may have any size.",
)
@click.option(
    "--sample",
    metavar="APP",
    show_default=_ANY,
    help="Publish a message made up for the handler of QUEUE in this application.",
)
@click.option(
    "--exchange", metavar="NAME", show_default="the default one", help="The exchange; QUEUE is the routing key then."
)
@click.option(
    "--header",
    multiple=True,
    metavar="NAME=VALUE",
    show_default=_ANY,
    help="A header of the messages. Repeat the option for several.",
)
@click.option("--content-type", metavar="TYPE", show_default="by the body", help="The content type of the messages.")
@click.option(
    "--count",
    type=click.IntRange(1),
    metavar="N",
    show_default="1, or all lines",
    help="Publish the message so often, or at most so many lines of the file.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    metavar="N",
    show_default="no limit",
    help="The most messages a second.",
)
@click.option("--json", "json_wanted", is_flag=True, help="Write what was done as JSON to stdout.")
@click.pass_context
def publish(ctx: click.Context, /, queue: str, body: str | None, json_wanted: bool, **flags: Any) -> None:
    """Publish BODY to QUEUE, and wait for the confirm.

    With - for BODY, stdin is the body. A message that no queue takes is an error.
    """
    from mxworker.letters.filters import parse_header

    if sum((body is not None, flags["file"] is not None, flags["sample"] is not None)) != 1:
        raise click.UsageError("Give one of BODY, - for stdin, --file and --sample.")
    brokers = brokers_of(ctx, flags)
    try:
        headers = dict(map(parse_header, flags["header"]))
        options = {"routing_key": queue, "exchange": flags["exchange"] or "", "headers": headers or None}
        if flags["content_type"]:
            options["content_type"] = flags["content_type"]
        with _bodies(queue, body, flags) as bodies:
            interruption = Interruption()
            sent = ended(_send(brokers, bodies, options, interruption, flags))
    except MxWorkerError as error:
        fail(str(error), ExitCode.USAGE if isinstance(error, ConfigError) else error.exit_code)
    _tell(sent, queue, json_wanted)
    if sent.failures or sent.stopped:
        sys.exit(interruption.exit_code or ExitCode.RUNTIME)


@contextmanager
def _bodies(queue: str, body: str | None, flags: dict[str, Any]) -> Iterator[_Bodies]:
    """Lend the bodies that are wanted. Raises MxWorkerError."""
    count = flags["count"] or 1
    if flags["file"] is not None:
        with Lines(flags["file"], sys.stdin.buffer, DEFAULT_MAX_PUBLISH_BYTES) as lines:
            size_bytes = None if flags["count"] else size_of(flags["file"])
            yield _Bodies(islice(lines, flags["count"]), flags["count"], size_bytes)
        return
    if flags["sample"] is not None:
        from mxworker.cli.publish.samples import sample_in

        sample = sample_in(queue, flags["sample"], flags)
        content, content_type = sample.body, sample.content_type
    else:
        is_stdin = body == STDIN
        content = (
            whole(sys.stdin.buffer, DEFAULT_MAX_PUBLISH_BYTES)
            if is_stdin
            else (body or "").encode("utf-8", "surrogateescape")
        )
        content_type = content_type_of(content)
    yield _Bodies(same(content, content_type, count), count)


async def _send(
    brokers: Brokers, bodies: _Bodies, options: dict[str, Any], interruption: Interruption, flags: dict[str, Any]
) -> Sent:
    from mxworker.amqp.publishing.publisher import Publisher
    from mxworker.cli.publish.progress import progress
    from mxworker.cli.publish.sending import Order, Sending

    interruption.watch()
    async with Publisher.connect(
        *(url.dsn for url in brokers.urls),
        tls_ca=brokers.tls.ca_file,
        tls_cert=brokers.tls.certificate_file,
        tls_key=brokers.tls.key_file,
        name="mxworker publish",
        connect_wait_s=flags["connect_wait"],
        channels=1,
    ) as publisher:
        with progress(bodies.messages, bodies.size_bytes) as on_progress:
            order = Order(options, flags["rate"], on_progress, lambda: interruption.why)
            return await Sending(publisher, order).run(bodies.bodies)


def _tell(sent: Sent, queue: str, json_wanted: bool) -> None:
    """Name each message that was not published, and say how many were."""
    for failure in sent.failures:
        click.echo(f"Error: {failure}", err=True)
    if json_wanted:
        click.echo(as_json({"published": sent.confirmed, "failures": sent.failures, "stopped": sent.stopped}))
        return
    if sent.stopped:
        click.echo(f"Stopped: {sent.stopped}.", err=True)
    what = "message" if sent.confirmed == 1 else "messages"
    click.echo(f"{sent.confirmed:,} {what} published to {queue} and confirmed.", err=True)
