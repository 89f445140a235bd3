"""`mxworker dlq replay` and `move`: they take letters out of a queue, and put them into another one."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from mxworker.cli.broker_options import EXIT_CODES, brokers_of, ended
from mxworker.cli.dlq.asking import confirmed
from mxworker.cli.dlq.letter_options import as_json_lines, filters_of, of_letters, source_of, without_question
from mxworker.cli.dlq.looking import look_at
from mxworker.cli.help import Command
from mxworker.cli.interruption import Interruption
from mxworker.cli.output import as_json, tell
from mxworker.errors import ExitCode

if TYPE_CHECKING:
    from mxworker.brokers import Brokers
    from mxworker.letters.letter import Letter, Original
    from mxworker.letters.moving import Moves
    from mxworker.letters.plan import Plan

_limit = click.option("--limit", type=click.IntRange(1), show_default="all", help="The most letters to take.")
_rate = click.option(
    "--rate", type=click.FloatRange(0, min_open=True), show_default="no limit", help="The most letters a second."
)


@click.command(
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=(
        "mxworker dlq replay orders --error ConnectionError --since 2h",
        "mxworker dlq replay orders --limit 10 --rate 1 --stop-on-return --yes",
    ),
)
@of_letters
@_limit
@_rate
@click.option(
    "--max-replays",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Leave letters out that were replayed so often. The count is in their header mx-replays.",
)
@click.option("--stop-on-return", is_flag=True, help="Stop when a letter of this replay has come back dead.")
@without_question
@as_json_lines
@click.pass_context
def replay(ctx: click.Context, /, queue: str, max_replays: int, stop_on_return: bool, **flags: Any) -> None:
    """Put dead letters back into QUEUE, to be handled again.

    Without --yes this is a dry run; on a terminal it asks. Only letters are taken that are there at the start, in their
    order. Each is published to QUEUE and confirmed before it is removed. A line on stdout tells of each.
    """
    from mxworker.letters.letter import letter_in
    from mxworker.wire.own_headers import REPLAY_HEADER, REPLAYS_HEADER

    name = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"

    def headers(original: Original) -> Mapping[str, Any]:
        return {REPLAYS_HEADER: letter_in(original).replays + 1, REPLAY_HEADER: name}

    def is_back(letter: Letter) -> bool:
        return letter.replay == name

    job = _Job(ctx, "replay", "replayed", source_of(queue, flags), queue, flags)
    job.run(max_replays, headers, is_back if stop_on_return else None)


@click.command(
    cls=Command,
    exit_codes=EXIT_CODES,
    examples=("mxworker dlq move orders orders.by-hand --handler app.refund",),
)
@of_letters
@click.argument("target")
@_limit
@_rate
@without_question
@as_json_lines
@click.pass_context
def move(ctx: click.Context, /, queue: str, target: str, **flags: Any) -> None:
    """Move dead letters of QUEUE to the queue TARGET.

    TARGET must exist. Without --yes this is a dry run; on a terminal it asks. Each letter is published to TARGET and
    confirmed before it is removed. A line on stdout tells of each.
    """
    source = source_of(queue, flags)
    if source == target:
        raise click.UsageError("the letters are in TARGET already.")
    _Job(ctx, "move", "moved", source, target, flags).run(None, lambda _: {}, None)


@dataclass(frozen=True, slots=True)
class _Job:
    """One replay or move: a look, a question, and then the deed."""

    ctx: click.Context
    verb: str
    done: str
    source: str
    target: str
    flags: dict[str, Any]

    def run(self, max_replays: int | None, headers: Any, is_back: Any) -> None:
        from mxworker.letters.plan import too_slow

        plan, brokers = plan_and_show(self.ctx, self.source, self.flags, max_replays)
        if slow := too_slow(plan.letters, self.flags["rate"]):
            raise click.UsageError(slow)
        letters = plan.letters
        what = f"{self.verb} {letters:,} {'letter' if letters == 1 else 'letters'} from {self.source} to {self.target}"
        if not letters or not confirmed(what, letters, self.flags["yes"]):
            return
        interruption = Interruption()
        moves = ended(self._move(brokers, plan, headers, is_back, interruption))
        self._report(moves, plan, letters)
        if moves.moved < letters or moves.in_doubt:
            sys.exit(interruption.exit_code or ExitCode.RUNTIME)

    async def _move(
        self, brokers: Brokers, plan: Plan, headers: Any, is_back: Any, interruption: Interruption
    ) -> Moves:
        from mxworker.letters.connecting import connected
        from mxworker.letters.moving import Way
        from mxworker.letters.taking import Source, move

        interruption.watch()
        way = Way(self.target, headers, self._audit, lambda: interruption.why, self.flags["rate"])
        async with connected(brokers, self.flags["connect_wait"]) as connection:
            source = Source(connection, brokers, self.source, self.flags["connect_wait"])
            return await move(source, plan, way, is_back)

    def _audit(self, original: Original) -> None:
        from mxworker.letters.letter import letter_in
        from mxworker.letters.texts import audit_json, audit_line

        letter: Letter = letter_in(original)
        if self.flags["json_wanted"]:
            tell(as_json(audit_json(self.done, letter, self.source, self.target, time.time())))
        else:
            tell(audit_line(self.done, letter, self.source, self.target, time.time()))

    def _report(self, moves: Moves, plan: Plan, letters: int) -> None:
        left = letters - moves.moved
        facts = {self.done: moves.moved, "left": left, "in_doubt": moves.in_doubt, "gone": plan.left}
        if self.flags["json_wanted"]:
            tell(as_json({"event": "ended", **facts, "not_copied": moves.uncopied, "stopped": moves.stopped}))
            return
        click.echo(f"{moves.moved:,} of {letters:,} letters {self.done} from {self.source} to {self.target}.", err=True)
        for text in _troubles(moves, plan):
            click.echo(text, err=True)


def _troubles(moves: Moves, plan: Plan) -> list[str]:
    troubles = []
    if moves.stopped:
        troubles.append(
            f"Stopped: {moves.stopped}.\n  Letters that were not taken stay. Run the command again for them."
        )
    if moves.in_doubt:
        troubles.append(
            f"{moves.in_doubt:,} may be in both queues: the connection ended before the confirm or the ack."
        )
    if moves.uncopied:
        troubles.append(
            f"{moves.uncopied:,} stay because their headers cannot be read, so they cannot be published again."
        )
    if plan.left:
        troubles.append(f"{plan.left:,} were not there any more: somebody else has taken them.")
    return troubles


def plan_and_show(
    ctx: click.Context, source: str, flags: dict[str, Any], max_replays: int | None
) -> tuple[Plan, Brokers]:
    """Look which letters are meant, show their counts, and return them as a plan. Exit with an error if that fails."""
    from mxworker.letters.plan import Plan
    from mxworker.letters.texts import summary_json, summary_text

    filters, brokers = filters_of(flags), brokers_of(ctx, flags)
    plan = Plan(filters, flags["limit"], max_replays)
    there = ended(look_at(brokers, source, lambda letter, _: plan.see(letter), flags["connect_wait"]))
    if flags["json_wanted"]:
        found = {"event": "chosen", **summary_json(source, plan.summary, there)}
        tell(as_json({**found, "replayed_too_often": plan.replayed_too_often}))
        return plan, brokers
    click.echo(summary_text(source, plan.summary, there), err=True)
    if plan.replayed_too_often:
        click.echo(f"{plan.replayed_too_often:,} more were replayed too often, and stay: --max-replays", err=True)
    return plan, brokers
