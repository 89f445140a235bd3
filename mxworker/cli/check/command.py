"""`mxworker check`.

Exit codes: 0 fit to run; 1 a finding says that it is not; 2 and 3 as for `run`; 4 the broker is unreachable or differs.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mxworker.cli import settings
from mxworker.cli.check.names import NAMES
from mxworker.cli.config.options import LEAVES, options_of
from mxworker.cli.config.sources import configuration_options
from mxworker.cli.help import Command
from mxworker.errors import BrokerError, CredentialsRefused, ExitCode, MxWorkerError
from mxworker.system.printable import by_line, foreign

if TYPE_CHECKING:
    from mxworker.api.compilation import Handler
    from mxworker.api.queues import Queue
    from mxworker.brokers import Brokers
    from mxworker.cli.check.comparison import Compared
    from mxworker.cli.check.findings import Finding
    from mxworker.cli.check.looking import Seen
    from mxworker.cli.check.report import Report
    from mxworker.config.process import Consumption

_EXIT_GRACE_S = 5.0
_SECTION = "Check"


@click.command(
    cls=Command,
    params=[click.Argument(["app"]), *options_of(LEAVES), *configuration_options()],
    exit_codes={
        ExitCode.OK: "fit to run; there may be warnings",
        ExitCode.RUNTIME: "not fit: a finding is an error, or with --strict a warning",
        ExitCode.USAGE: "a usage or configuration error",
        ExitCode.APP_LOAD: "the application cannot be loaded",
        ExitCode.BROKER: "the broker was unreachable, or what it has does not fit",
        ExitCode.FORCED: "interrupted by Ctrl-C",
    },
    examples=(
        "mxworker check app:handlers",
        "mxworker check app:handlers --connect --strict",
        "mxworker check app:handlers --connect --json > check.json",
    ),
    epilog="The application is imported, so its code runs as far as an import does; no lifespan is entered. --connect "
    "declares, consumes and changes nothing at the broker. It takes the flags of 'mxworker run'.",
)
@click.option("--connect", "is_connecting", is_flag=True, help="Compare the topology with the broker.")
@click.option("--strict", "is_strict", is_flag=True, help="Let a warning count as an error.")
@click.option(
    "--ignore",
    "ignored",
    type=click.Choice(sorted(NAMES)),
    metavar="NAME",
    multiple=True,
    show_default="none",
    help="Leave out the findings of this name, such as no-dead-letter-target. Repeat it for several.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, for programs.")
@click.pass_context
def check(
    ctx: click.Context,
    /,
    app: str,
    is_connecting: bool,
    is_strict: bool,
    ignored: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Say whether APP is fit to run, and what it would run and declare.

    APP is `module:attribute` or `file.py:attribute`; the attribute defaults to `handlers`.
    """
    from mxworker.system.log import set_up

    is_typed = settings.is_password_typed(flags)
    settings.hide_urls(f"mxworker: check {foreign(app)}")
    set_up("error", "text")
    with _kept_for_report() as out:
        try:
            report = _checked(ctx, app, flags, is_connecting, is_strict, ignored, is_typed)
            text, code = _written(report, as_json), report.exit_code
        except MxWorkerError as error:
            text, code = _failure(app, error, as_json), error.exit_code
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            text, code = "", ExitCode.FORCED
    _end(out, text, code)


def _checked(
    ctx: click.Context,
    app: str,
    flags: dict[str, Any],
    is_connecting: bool,
    is_strict: bool,
    ignored: Sequence[str],
    is_typed: bool,
) -> Report:
    """Load the application, ask the broker if that is wanted, and return the report. Raises MxWorkerError."""
    from mxworker.brokers import Brokers
    from mxworker.cli.check.comparison import channel_findings, planned
    from mxworker.cli.check.findings import exit_code, without
    from mxworker.cli.check.host import this_host
    from mxworker.cli.check.lints import broker_lints
    from mxworker.cli.check.report import Report
    from mxworker.cli.check.totals import channels_of_a_connection, host_findings, totals
    from mxworker.cli.config.rows import rows_of
    from mxworker.worker.loading import prepare

    settings.check(app, flags)
    is_named = settings.url_source(flags) is not None
    brokers = settings.checked_brokers(ctx, flags) if is_named or is_connecting else Brokers(())
    workers, origin = _workers(flags)
    chosen = settings.tree(flags, workers)
    wanted = settings.consumption(app, brokers, chosen, settings.queue_overrides(chosen, workers))
    application, effective, handlers = prepare(wanted)
    declared = application.declared_queues
    topology = [
        each for handler in handlers for each in planned(handler.queue, handler.retry_steps_ms, is_consumed=True)
    ]
    topology += [each for queue in declared for each in planned(queue, (), is_consumed=False)]
    every, host = totals(handlers, effective, workers), this_host()
    findings = [*broker_lints(brokers, is_typed), *host_findings(every, host)]
    seen = None
    if is_connecting:
        seen = _look(brokers, flags["connect_wait"], topology, [*(each.queue for each in handlers), *declared])
        topology = list(seen.topology)
        findings += channel_findings(channels_of_a_connection(handlers, effective), seen.facts.channel_max)
    findings += _findings(handlers, declared, seen)
    kept = without(findings, ignored)
    return Report(
        app=app,
        workers=workers,
        workers_origin=origin,
        settings=list(rows_of(flags, _in_code(effective))),
        handlers=handlers,
        declared=declared,
        totals=every,
        host=host,
        topology=topology,
        broker=seen.facts if seen is not None else None,
        findings=kept,
        exit_code=exit_code(kept, is_strict),
    )


def _findings(handlers: Sequence[Handler], declared: Sequence[Queue], seen: Seen | None) -> Iterator[Finding]:
    """Yield what is wrong with the application, and with the broker if it was asked."""
    from mxworker.cli.check.comparison import binding_findings, queue_findings, rights_findings
    from mxworker.cli.check.lints import NOT_ASKED, lints

    if seen is None:
        yield from lints(handlers, declared, None, NOT_ASKED)
        return
    for compared in seen.topology:
        yield from queue_findings(compared)
    for queue in [*(handler.queue for handler in handlers), *declared]:
        yield from binding_findings(queue, seen.exchanges)
    needs_copies = any(handler.queue.dead_letter or handler.retry is not None for handler in handlers)
    yield from rights_findings(seen.may_publish, needs_copies)
    known = {
        compared.wanted.name: compared.arguments for compared in seen.topology if compared.wanted.declare != "ensure"
    }
    yield from lints(
        handlers,
        declared,
        seen.facts.server,
        {name: arguments for name, arguments in known.items() if arguments is not None},
    )


def _look(brokers: Brokers, wait_s: float, topology: Sequence[Compared], queues: Sequence[Queue]) -> Seen:
    """Ask the broker. Raises BrokerError, which names the brokers."""
    import asyncio

    from mxworker.cli.check.looking import look

    try:
        return asyncio.run(look(brokers, wait_s, topology, queues))
    except CredentialsRefused as error:
        raise BrokerError(f"{error}\n  Check user, password and virtual host in {foreign(brokers)}.") from error
    except BrokerError as error:
        raise BrokerError(
            f"no answer from {foreign(brokers)}: {str(error).rstrip('.')}.\n  Check that RabbitMQ runs there and the "
            "address is right, or wait longer with --connect-wait."
        ) from error


def _workers(flags: dict[str, Any]) -> tuple[int, str]:
    """Return the number of workers, and where it comes from, as `run` has them."""
    from mxworker.cli.cpus import usable
    from mxworker.config.bounds import MAX_WORKERS

    if flags["workers"] is not None:
        return flags["workers"], "set"
    cpus = usable()
    return min(cpus.count, MAX_WORKERS), f"auto: {cpus.origin}"


def _in_code(effective: Consumption) -> dict[tuple[str, ...], Any]:
    """Return the settings that an application may have in its code, by the paths of their leaves."""
    return {
        leaf.path: getattr(getattr(effective, leaf.path[0]), leaf.path[1])
        for leaf in LEAVES
        if leaf.path[0] in ("publisher", "pool")
    }


def _written(report: Report, as_json: bool) -> str:
    from mxworker.cli.check.document import document_of
    from mxworker.cli.check.texts import text_of
    from mxworker.cli.output import as_json as json_of

    return json_of(document_of(report)) if as_json else text_of(report)


def _failure(app: str, error: MxWorkerError, as_json: bool) -> str:
    """Tell people of an error on stderr; return the document for programs."""
    if not as_json:
        click.echo(by_line(f"Error: {error}"), err=True)
        return ""
    from mxworker.cli.check.document import failure_document
    from mxworker.cli.output import as_json as json_of

    return json_of(failure_document(app, error))


@contextmanager
def _kept_for_report() -> Iterator[int]:
    """Yield a descriptor of stdout, and let all that the application prints meanwhile go to stderr."""
    sys.stdout.flush()
    out = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        yield out
    finally:
        sys.stdout.flush()


def _end(out: int, text: str, code: ExitCode) -> NoReturn:
    """Write the report and exit, even if the application has started threads that never end."""
    from mxworker.system.at_exit import finish

    os.dup2(out, sys.stdout.fileno())
    try:
        if text:
            click.echo(text)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has gone, as `head` does
        pass
    finish(code, time.monotonic() + _EXIT_GRACE_S)
    os._exit(code)
