"""Results as tables in Markdown: one for each scenario, one of the goals, and the short one of README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.report.goals import Verdict
from bench.report.results import EntryResult, Run, ScenarioResult, Spread
from bench.scenario import MEASURES

_LONGEST_FAILURE = 160
COLUMNS = (
    ("consume, msg/s", "consume-classic", "rate"),
    ("CPU, us", "consume-classic", "cpu_us"),
    ("publish, msg/s", "publish-quorum", "rate"),
    ("CPU, us", "publish-quorum", "cpu_us"),
    ("relay, msg/s", "relay", "rate"),
    ("own limit, msg/s", "wire-consume", "rate"),
)
"""The columns of README's table: title, scenario, measure."""


def scenario_table(scenario: ScenarioResult) -> str:
    """Return a table of all that was measured in a scenario: medians, the spread, and ratios to the first entry."""
    measured = [name for name in MEASURES if any(entry.spread(name) for entry in scenario.entries)]
    titles = [MEASURES[name].column for name in measured]
    rows = [_entry_row(scenario, entry, measured) for entry in scenario.entries]
    return _table(["", *titles, f"ratio of {MEASURES[scenario.compared].column}", "versions"], rows)


def _entry_row(scenario: ScenarioResult, entry: EntryResult, measured: Sequence[str]) -> list[str]:
    cells = [_cell(entry, name) for name in measured]
    first, own = scenario.entries[0].spread(scenario.compared), entry.spread(scenario.compared)
    ratio = f"{own.median / first.median:.2f}" if first and own and first.median else ""
    note = f"{entry.how_it_ended}: {one_line(entry.failure)}" if entry.failure else ""
    return [entry.name, *cells, ratio, "; ".join(filter(None, (note, entry.version)))]


def _cell(entry: EntryResult, measure: str) -> str:
    spread = entry.spread(measure)
    return "" if spread is None else shown(spread, MEASURES[measure].digits)


def shown(spread: Spread, digits: int) -> str:
    """Return a median with its spread, such as `1,200 (900-1,300)`."""
    median, lowest, highest = (f"{value:,.{digits}f}" for value in (spread.median, spread.lowest, spread.highest))
    return median if lowest == highest else f"{median} ({lowest}-{highest})"


def goal_table(verdicts: Sequence[Verdict]) -> str:
    """Return a table that says of each goal whether it is held."""
    return _table(["goal", "bound", "measured", ""], [_goal_row(verdict) for verdict in verdicts])


def _goal_row(verdict: Verdict) -> list[str]:
    goal = verdict.goal
    sign, bound = (">=", goal.at_least) if goal.at_least is not None else ("<=", goal.at_most)
    unit = "x" if goal.against else MEASURES[goal.measure].unit
    measured = "" if verdict.value is None else f"{verdict.value:,.2f} {unit}"
    if len(goal.against) > 1 and verdict.against:
        measured += f" ({verdict.against})"
    missing = f" by {verdict.distance:.0%}" if verdict.distance else ""
    return [goal.text, f"{sign} {bound:g} {unit}", measured, f"{verdict.state}{missing}"]


def short_table(run: Run) -> str:
    """Return the table of README: a row for each client, and the best of each column in bold."""
    columns = [_column(run, scenario, measure) for _, scenario, measure in COLUMNS]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [[name, *(column.get(name, "") for column in columns)] for name in names]
    return _table(["client", *(title for title, _, _ in COLUMNS)], rows)


def _column(run: Run, name: str, measure: str) -> dict[str, str]:
    """Return the cells of a column by client: medians, or that it failed."""
    scenario = run.scenario(name)
    if scenario is None:
        return {}
    spreads = {entry.name: entry.spread(measure) for entry in scenario.entries}
    medians = {name: spread.median for name, spread in spreads.items() if spread is not None}
    best = (max if MEASURES[measure].more_is_better else min)(medians.values(), default=0.0)
    cells = {}
    for entry in scenario.entries:
        median = medians.get(entry.name)
        text = entry.how_it_ended if median is None else f"{median:,.{MEASURES[measure].digits}f}"
        cells[entry.name] = f"**{text}**" if median == best else text
    return cells


def one_line(text: str) -> str:
    """Return the beginning of a text, for the cell of a table."""
    joined = " ".join(text.replace("|", "/").split())
    return joined if len(joined) <= _LONGEST_FAILURE else f"{joined[:_LONGEST_FAILURE]} ..."


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    aligned = ["---", *("--:" for _ in titles[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, aligned, *rows))
