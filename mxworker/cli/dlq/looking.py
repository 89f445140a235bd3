"""`mxworker dlq stats`, `list` and `show`: they look at letters, and change nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from mxworker.cli.broker_options import EXIT_CODES, brokers_of, ended
from mxworker.cli.dlq.letter_options import filters_of, of_letters, source_of
from mxworker.cli.help import Command
from mxworker.cli.output import as_json
from mxworker.errors import ExitCode

if TYPE_CHECKING:
    from mxworker.brokers import Brokers
    from mxworker.letters.looking import See

_as_json_option = click.option("--json", "json_wanted", is_flag=True, help="Write JSON instead of text.")


@click.command(
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=("mxworker dlq orders", "mxworker dlq stats orders --since 2h", "mxworker dlq stats orders --quarantine"),
)
@of_letters
@_as_json_option
@click.pass_context
def stats(ctx: click.Context, /, queue: str, json_wanted: bool, **flags: Any) -> None:
    """Count dead letters by reason, handler, error type and hour."""
    from mxworker.letters.letter import Letter, Original
    from mxworker.letters.summary import Summary
    from mxworker.letters.texts import summary_json, summary_text

    name, filters, brokers = source_of(queue, flags), filters_of(flags), brokers_of(ctx, flags)
    summary = Summary()

    def see(letter: Letter, _: Original) -> None:
        if filters.match(letter):
            summary.add(letter)

    there = ended(look_at(brokers, name, see, flags["connect_wait"]))
    if json_wanted:
        click.echo(as_json(summary_json(name, summary, there)))
    else:
        click.echo(summary_text(name, summary, there))


@click.command(
    "list",
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=("mxworker dlq list orders", "mxworker dlq list orders --error ValueError --limit 10"),
)
@of_letters
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="The most letters to show.")
@_as_json_option
@click.pass_context
def list_(ctx: click.Context, /, queue: str, limit: int, json_wanted: bool, **flags: Any) -> None:
    """List dead letters in their order.

    The first is the first to be replayed. A line has the time of death in UTC, a key for other commands, the reason,
    the handler, and the error. With --json each line is a JSON object.
    """
    from mxworker.letters.letter import Letter, Original
    from mxworker.letters.texts import letter_json, line

    name, filters, brokers = source_of(queue, flags), filters_of(flags), brokers_of(ctx, flags)
    shown = matching = 0

    def see(letter: Letter, _: Original) -> None:
        nonlocal shown, matching
        if filters.match(letter):
            matching += 1
            if shown < limit:
                click.echo(as_json(letter_json(letter)) if json_wanted else line(letter))
                shown += 1

    there = ended(look_at(brokers, name, see, flags["connect_wait"]))
    if not json_wanted:
        which = "" if matching == there else " that match"
        more = "; --limit shows more" if shown < matching else ""
        click.echo(f"{name}: {shown:,} of {matching:,} letters{which}{more}.", err=True)


@click.command(
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=("mxworker dlq show orders 3f2a9c01b2aa", "mxworker dlq show orders --id order-4711 --json"),
)
@of_letters
@click.argument("letter_id", metavar="[ID]", required=False)
@_as_json_option
@click.pass_context
def show(ctx: click.Context, /, queue: str, letter_id: str | None, json_wanted: bool, **flags: Any) -> None:
    """Show all of a dead letter: facts, properties, headers and body.

    ID is a message id, or a key as list shows it. All letters with this ID are shown.
    """
    from mxworker.letters.letter import Letter, Original
    from mxworker.letters.texts import page, page_json

    name, filters, brokers = source_of(queue, flags), filters_of(flags), brokers_of(ctx, flags)
    if letter_id is not None:
        filters = replace(filters, ids=(*filters.ids, letter_id))
    if not filters.ids:
        raise click.UsageError("Name the letter: mxworker dlq show QUEUE ID. 'mxworker dlq list QUEUE' shows the keys.")
    shown = 0

    def see(letter: Letter, original: Original) -> None:
        nonlocal shown
        if filters.match(letter):
            click.echo(as_json(page_json(letter, original)) if json_wanted else page(letter, original))
            shown += 1

    there = ended(look_at(brokers, name, see, flags["connect_wait"]))
    if not shown:
        click.echo(f"Error: none of the {there:,} letters of {name} has this id.", err=True)
        ctx.exit(ExitCode.RUNTIME)


async def look_at(brokers: Brokers, name: str, see: See, wait_s: float) -> int:
    """Connect, show each letter of queue `name` to `see`, and return how many were there."""
    from mxworker.letters.connecting import connected
    from mxworker.letters.looking import look

    async with connected(brokers, wait_s) as connection:
        return await look(connection, brokers, name, see, wait_s)
