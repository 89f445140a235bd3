"""Measure mxworker beside other clients.

    python -m bench [NAME ...] [--rounds 5] [--scale 1.0] [--only CONTENDER ...]

NAME is a scenario, or what the names of several start with; without one all run, and the run replaces
`bench/results/latest.json`, the pictures beside it and README's table. A private RabbitMQ is started for the run;
MXWORKER_TEST_BROKER_URL names another one.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench.contenders import Unavailable
from bench.contest import Contestant
from bench.machine import facts
from bench.report.goals import State, load, verdicts
from bench.report.pages import put_table, report
from bench.report.pictures import can_draw, draw
from bench.report.results import Run, write
from bench.report.tables import goal_table
from bench.runner import Plan, chosen, run
from bench.scenario import Scenario
from bench.scenarios import SCENARIOS
from tests.harness.repository import REPOSITORY
from tests.rabbit.installation import RabbitMQMissing
from tests.rabbit.lent import lent_broker
from tests.rabbit.node import NodeError

RESULTS = Path(__file__).with_name("results")
PROFILES = RESULTS / "profiles"
SETTINGS_HELP = "change all jobs: messages, queue_type, body_bytes, concurrency, prefetch, window or rate"
ROUNDS = 5
USAGE = 2


def main() -> int:
    """Run what the command line asks for."""
    options = parser().parse_args()
    try:
        scenarios = [narrowed(each, options.only, options.settings) for each in chosen(SCENARIOS, options.names)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return USAGE
    if options.list:
        for scenario in scenarios:
            print(f"{scenario.name:<24} {scenario.title}: {', '.join(entry.name for entry in scenario.entries)}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the broker is stopped
    with ExitStack() as stack:
        broker_url = starter(stack)
        say = functools.partial(print, flush=True)
        plan = Plan(options.rounds, options.scale, broker_url, say, PROFILES, options.profile)
        found = facts(broker_url) | {"rounds": options.rounds, "scale": options.scale}
        measured = Run(found, tuple(run(scenario, plan) for scenario in scenarios))
    if options.profile:
        print(f"\nThe profiles are in {PROFILES}.")
    else:
        publish(measured, is_complete(options), RESULTS, REPOSITORY / "README.md")
    return 0


def is_complete(options: argparse.Namespace) -> bool:
    """Whether a run measures everything as it should be measured."""
    changed = options.names or options.only or options.settings
    return not changed and options.scale == 1.0 and options.rounds >= ROUNDS


def publish(measured: Run, is_complete: bool, folder: Path, readme: Path) -> None:
    """Write the results and print the tables. Only a complete run replaces the latest results and README's table."""
    judged = verdicts(load(), measured)
    if not is_complete:
        write(measured, folder / "partial.json")
        print(f"\n{report(measured, [each for each in judged if each.state is not State.NOT_MEASURED], {})}")
        return
    write(measured, folder / "latest.json")
    if not can_draw():
        print("matplotlib is missing, so no pictures were drawn", file=sys.stderr)
    text = report(measured, judged, draw(measured, folder) if can_draw() else {})
    (folder / "report.md").write_text(text, encoding="utf-8")
    put_table(readme, measured)
    print(f"\n{goal_table(judged)}\n\nSee {folder / 'report.md'}.")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m bench", description="Measure mxworker beside other clients.")
    made.add_argument("names", nargs="*", metavar="NAME", help="a scenario, or what the names of several start with")
    made.add_argument("--list", action="store_true", help="list the scenarios with their entries, and end")
    made.add_argument("--rounds", type=int, default=ROUNDS)
    made.add_argument("--scale", type=float, default=1.0, help="multiply every number of messages by this")
    kinds = made.add_mutually_exclusive_group()
    for kind, what in (("cpu", "where the CPU time goes"), ("memory", "what is allocated and not freed")):
        text = f"write {what} into {PROFILES}, for each program in Python; the figures of the run are worth nothing"
        kinds.add_argument(f"--profile-{kind}", dest="profile", action="store_const", const=kind, default="", help=text)
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings", help=SETTINGS_HELP)
    made.add_argument("--only", action="append", default=[], metavar="ENTRY", help="run only entries of this name")
    return made


def narrowed(scenario: Scenario, only: list[str], settings: list[str]) -> Scenario:
    """Return the scenario with the entries of these names alone, or with all for an empty list, and with other jobs.

    Raises ValueError for a setting that there is not.
    """
    kept = (entry for entry in scenario.entries if not only or entry.name in only)
    entries = tuple(entry.changed(settings) if isinstance(entry, Contestant) else entry for entry in kept)
    return dataclasses.replace(scenario, entries=entries)


def starter(stack: ExitStack) -> Callable[[], str]:
    """Return a function that starts a broker when it is first called, and lends it until the stack ends."""

    @functools.cache
    def broker_url() -> str:
        try:
            return stack.enter_context(lent_broker())
        except (RabbitMQMissing, NodeError) as error:
            raise Unavailable(str(error)) from error

    return broker_url


if __name__ == "__main__":
    sys.exit(main())
