"""What becomes of the results of a benchmark: medians and spreads, verdicts on goals, tables, README."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.report.goals import Goal, State, load, verdicts
from bench.report.pages import BEGIN, END, report, with_table
from bench.report.results import EntryResult, Run, ScenarioResult, Spread, read, write
from bench.report.tables import goal_table, scenario_table, short_table, shown
from bench.scenarios import SCENARIOS
from tests.harness.repository import REPOSITORY

FACTS = {
    "when": "2026-01-02 03:04:05 UTC",
    "commit": "abc",
    "machine": {"cpu": "Some CPU", "cores": 2, "memory_latency_ns": 90, "load": 0.1},
    "kernel": "6.1",
    "system": "Debian",
    "python": "3.11.7",
    "broker": "RabbitMQ 3.10.8",
    "rounds": 3,
    "wire_server": "C",
}


def entry(name: str, *rates: float, cpu_us: float = 10.0, failure: str = "") -> EntryResult:
    return EntryResult(name, f"{name} 1.0", tuple({"rate": rate, "cpu_us": cpu_us} for rate in rates), failure)


def run_of(*entries: EntryResult, name: str = "consume-classic") -> Run:
    return Run(FACTS, (ScenarioResult(name, "consume", "rate", entries),))


def verdict_of(goal: Goal, *entries: EntryResult) -> tuple[State, float | None, str]:
    (found,) = verdicts([goal], run_of(*entries))
    return found.state, found.value, found.against


def test_a_spread_is_the_median_with_the_lowest_and_highest_round() -> None:
    assert entry("ours", 30.0, 10.0, 20.0).spread("rate") == Spread(20.0, 10.0, 30.0)
    assert entry("ours", 10.0, 20.0).spread("rate") == Spread(15.0, 10.0, 20.0)
    assert entry("ours", 10.0).spread("p95_ms") is None
    assert entry("ours").spread("rate") is None


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = run_of(entry("ours", 3.0, 1.0), EntryResult("C", "", (), "no compiler", False))
    write(run, tmp_path / "made" / "latest.json")
    assert read(tmp_path / "made" / "latest.json") == run


def test_a_goal_is_a_ratio_of_medians_to_the_entry_that_is_hardest_to_reach() -> None:
    goal = Goal("fast", "consume-classic", "ours", "rate", ("slow", "fast", "absent"), at_least=2.0)
    slow, fast, gone = entry("slow", 5.0), entry("fast", 10.0, 11.0, 9.0), entry("absent", failure="gone")
    assert verdict_of(goal, entry("ours", 20.0), slow, fast, gone) == (State.HELD, 2.0, "fast")
    assert verdict_of(goal, entry("ours", 19.0), slow, fast, gone) == (State.MISSED, 1.9, "fast")
    assert verdict_of(goal, entry("ours", 19.0), gone) == (State.NOT_MEASURED, None, "")
    assert verdict_of(goal, slow) == (State.NOT_MEASURED, None, "")
    frugal = Goal("frugal", "consume-classic", "ours", "cpu_us", ("slow", "fast"), at_most=0.5)
    entries = entry("ours", 1.0, cpu_us=4.0), entry("slow", 1.0, cpu_us=20.0), entry("fast", 1.0, cpu_us=8.0)
    assert verdict_of(frugal, *entries) == (State.HELD, 0.5, "fast")


def test_a_missed_goal_tells_its_distance() -> None:
    goal = Goal("fast", "consume-classic", "ours", "rate", at_least=100.0)
    (found,) = verdicts([goal], run_of(entry("ours", 90.0)))
    assert found.distance == pytest.approx(0.1)
    assert "missed by 10%" in goal_table([found])
    (found,) = verdicts([goal], run_of(entry("ours", 100.0)))
    assert found.distance == 0.0
    assert "| held |" in goal_table([found])


@pytest.mark.parametrize("bounds", [{}, {"at_least": 1.0, "at_most": 2.0}, {"at_least": 1.0, "measure": "speed"}])
def test_a_goal_that_says_nothing_clear_is_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a goal needs"):
        Goal(**{"text": "fast", "scenario": "s", "entry": "e", "measure": "rate", **bounds})  # type: ignore[arg-type]


def test_each_goal_names_a_scenario_and_entries_that_there_are() -> None:
    entries = {scenario.name: {each.name for each in scenario.entries} for scenario in SCENARIOS}
    missing = {(goal.scenario, goal.entry) for goal in load() if goal.entry not in entries.get(goal.scenario, ())}
    assert missing == set()
    unknown = {name for goal in load() for name in goal.against if name not in entries[goal.scenario]}
    assert unknown == set()


def test_a_table_shows_medians_ranges_ratios_and_failures() -> None:
    gone = EntryResult("C", "", (), "there is\nno | compiler", False)
    (scenario,) = run_of(entry("ours", 1000.0, 1200.0, 1100.0), entry("Go", 550.0), gone).scenarios
    assert scenario_table(scenario).splitlines()[2:] == [
        "| ours | 1,100 (1,000-1,200) | 10.0 | 1.00 | ours 1.0 |",
        "| Go | 550 | 10.0 | 0.50 | Go 1.0 |",
        "| C |  |  |  | not available: there is no / compiler |",
    ]
    assert shown(Spread(1.0, 1.0, 1.0), 2) == "1.00"


def test_the_short_table_has_the_best_of_each_column_in_bold_whoever_it_is() -> None:
    run = run_of(entry("mxworker", 900.0, cpu_us=9.0), entry("Go", 1000.0, cpu_us=11.0), entry("X", failure="crashed"))
    assert short_table(run).splitlines()[2:] == [
        "| mxworker | 900 | **9.0** |  |  |  |  |",
        "| Go | **1,000** | 11.0 |  |  |  |  |",
        "| X | failed | failed |  |  |  |  |",
    ]


def test_the_table_replaces_the_one_before_and_leaves_the_rest_of_readme_alone() -> None:
    run = run_of(entry("mxworker", 900.0))
    once = with_table(f"# Title\n\n{BEGIN}\n\n## Next\n", run)
    assert once.startswith(f"# Title\n\n{BEGIN}\n\n| client |")
    assert once.endswith(f"{END}\n\n## Next\n")
    assert with_table(once, run) == once
    with pytest.raises(ValueError, match="no line '<!-- bench table -->'"):
        with_table("# Title\n", run)


def test_the_report_has_all_scenarios_with_their_pictures() -> None:
    text = report(run_of(entry("ours", 1.0)), [], {"consume-classic": "consume-classic.svg"})
    assert "![consume](consume-classic.svg)" in text
    assert "commit abc" in text
    assert "no C compiler" not in text
    run = Run({**FACTS, "wire_server": "Python"}, ())
    assert "There was no C compiler, so the wire server was in Python" in report(run, [], {})


def test_readme_has_the_table_of_the_latest_results() -> None:
    latest = REPOSITORY / "bench/results/latest.json"
    if not latest.exists():
        pytest.skip("no results were measured yet")
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert with_table(readme, read(latest)) == readme
