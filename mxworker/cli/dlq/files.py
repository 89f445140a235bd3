"""`mxworker dlq export`, `import` and `purge`: letters in files."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mxworker.cli.asking import fail
from mxworker.cli.broker_options import EXIT_CODES, brokers_of, ended
from mxworker.cli.dlq.asking import confirmed
from mxworker.cli.dlq.letter_options import as_json_lines, filters_of, of_letters, source_of, without_question
from mxworker.cli.dlq.looking import look_at
from mxworker.cli.dlq.moving import plan_and_show
from mxworker.cli.help import Command
from mxworker.cli.interruption import Interruption
from mxworker.cli.output import as_json, tell
from mxworker.errors import ConfigError, ExitCode
from mxworker.system.printable import foreign

if TYPE_CHECKING:
    from mxworker.brokers import Brokers
    from mxworker.letters.importing import Imported
    from mxworker.letters.letter import Letter, Original
    from mxworker.letters.letter_file import LetterFile
    from mxworker.letters.moving import Moves
    from mxworker.letters.plan import Plan


@click.command(
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=("mxworker dlq export orders orders.ndjson --since 2h",),
)
@of_letters
@click.argument("file", type=click.Path())
@as_json_lines
@click.pass_context
def export(ctx: click.Context, /, queue: str, file: str, json_wanted: bool, **flags: Any) -> None:
    """Write dead letters of QUEUE to FILE, and leave them in the queue.

    FILE must be new. It has a JSON object for each letter, from which 'mxworker dlq import' makes the letter again.
    """
    source, filters, brokers = source_of(queue, flags), filters_of(flags), brokers_of(ctx, flags)
    written = 0
    with _new_file(Path(file)) as target:

        def see(letter: Letter, original: Original) -> None:
            nonlocal written
            if filters.match(letter):
                target.write(letter, original)
                written += 1

        there = ended(look_at(brokers, source, see, flags["connect_wait"]))
        target.complete()
    if json_wanted:
        tell(as_json({"event": "exported", "queue": source, "exported": written, "there": there, "file": file}))
    else:
        click.echo(f"{written:,} of {there:,} letters of {source} are in {file}.", err=True)


@click.command(
    "import",
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=("mxworker dlq import orders orders.ndjson",),
)
@of_letters
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@as_json_lines
@click.pass_context
def import_(ctx: click.Context, /, queue: str, file: str, json_wanted: bool, **flags: Any) -> None:
    """Put the letters of FILE into the dead-letter queue of QUEUE.

    FILE is one that 'mxworker dlq export' or 'purge' has written. Letters that are in the queue already are left out,
    so an import that was interrupted can be repeated. A line on stdout tells of each letter.
    """
    from mxworker.letters.importing import Imported
    from mxworker.letters.letter import letter_in
    from mxworker.letters.texts import audit_json, audit_line

    source, filters, brokers = source_of(queue, flags), filters_of(flags), brokers_of(ctx, flags)
    letters = Imported(Path(file), filters)

    def audit(original: Original) -> None:
        facts = "imported", letter_in(original), file, source, time.time()
        tell(as_json(audit_json(*facts)) if json_wanted else audit_line(*facts))

    interruption = Interruption()
    moves = ended(_import(brokers, source, letters, audit, interruption, flags["connect_wait"]))
    facts = {"imported": moves.moved, "already_there": letters.already_there, "in_doubt": moves.in_doubt}
    if json_wanted:
        tell(as_json({"event": "ended", **facts, "not_copied": moves.uncopied, "stopped": moves.stopped}))
    else:
        there = f" {letters.already_there:,} were there already." if letters.already_there else ""
        click.echo(f"{moves.moved:,} letters of {file} are in {source} now.{there}", err=True)
        if moves.stopped:
            click.echo(f"Stopped: {moves.stopped}.\n  Run the command again for the rest.", err=True)
    if moves.stopped or moves.uncopied:
        sys.exit(interruption.exit_code or ExitCode.RUNTIME)


@click.command(
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=(
        "mxworker dlq purge orders --until 2026-11-01",
        "mxworker dlq purge orders --id order-4711 --export order-4711.ndjson --yes",
    ),
)
@of_letters
@click.option("--limit", type=click.IntRange(1), show_default="all", help="The most letters to remove.")
@click.option(
    "--export",
    "file",
    type=click.Path(),
    metavar="FILE",
    show_default="a new file in this directory",
    help="Where the letters are written before they are removed.",
)
@without_question
@as_json_lines
@click.pass_context
def purge(ctx: click.Context, /, queue: str, file: str | None, **flags: Any) -> None:
    """Remove dead letters of QUEUE, after they were written to a file.

    Without --yes this is a dry run; on a terminal it asks. No letter is removed before all are in the file, which
    'mxworker dlq import' can put back. A line on stdout tells of each letter.
    """
    source = source_of(queue, flags)
    plan, brokers = plan_and_show(ctx, source, flags, None)
    letters = plan.letters
    path = Path(file or f"{source.replace('/', '_')}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.ndjson")
    what = f"remove {letters:,} {'letter' if letters == 1 else 'letters'} from {source} and keep them in {path}"
    if not letters or not confirmed(what, letters, flags["yes"]):
        return
    with _new_file(path) as target:
        purged = ended(_purge(brokers, source, plan, target, str(path), flags))
    if flags["json_wanted"]:
        tell(as_json({"event": "ended", "purged": purged, "gone": plan.left, "file": str(path)}))
    else:
        click.echo(f"{purged:,} of {letters:,} letters were removed from {source}. They are in {path}.", err=True)
    if purged < letters:
        sys.exit(ExitCode.RUNTIME)


@contextmanager
def _new_file(path: Path) -> Iterator[LetterFile]:
    """Create a new file of letters for a block; exit with an error when that cannot be done."""
    from mxworker.letters.letter_file import LetterFile

    try:
        file = LetterFile(path)
    except ConfigError as error:
        fail(str(error), error.exit_code)
    try:
        yield file
    except OSError as error:
        fail(f"'{foreign(path)}' cannot be written: {error.strerror}. No letter was removed.")
    finally:
        file.close()


async def _purge(
    brokers: Brokers, source: str, plan: Plan, file: LetterFile, shown_path: str, flags: dict[str, Any]
) -> int:
    from mxworker.letters.connecting import connected
    from mxworker.letters.purging import purge
    from mxworker.letters.taking import Source
    from mxworker.letters.texts import audit_json, audit_line

    def audit(letter: Letter) -> None:
        facts = "purged", letter, source, shown_path, time.time()
        tell(as_json(audit_json(*facts)) if flags["json_wanted"] else audit_line(*facts))

    async with connected(brokers, flags["connect_wait"]) as connection:
        return await purge(Source(connection, brokers, source, flags["connect_wait"]), plan, file, audit)


async def _import(
    brokers: Brokers, source: str, letters: Imported, audit: Any, interruption: Interruption, wait_s: float
) -> Moves:
    from mxworker.letters.connecting import connected
    from mxworker.letters.importing import import_letters
    from mxworker.letters.moving import Way
    from mxworker.letters.taking import Source

    interruption.watch()
    way = Way(source, on_moved=audit, why_stop=lambda: interruption.why)
    async with connected(brokers, wait_s) as connection:
        return await import_letters(Source(connection, brokers, source, wait_s), letters, way)
