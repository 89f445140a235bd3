"""Where the tables go: `report.md` beside the results, and the place that README keeps for the short one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.report.goals import Verdict
from bench.report.results import Run
from bench.report.tables import goal_table, scenario_table, short_table

BEGIN = "<!-- bench table -->"
END = "<!-- end of bench table -->"


def report(run: Run, verdicts: Sequence[Verdict], pictures: Mapping[str, str]) -> str:
    """Return the whole report of a run. `pictures` has the file of each scenario that was drawn."""
    parts = ["# Results of `make bench`", setting(run.facts), "## Goals", goal_table(verdicts)]
    for scenario in run.scenarios:
        parts += [f"## {scenario.name}", f"{scenario.title[0].upper()}{scenario.title[1:]}.", scenario_table(scenario)]
        if scenario.name in pictures:
            parts.append(f"![{scenario.title}]({pictures[scenario.name]})")
    return "\n\n".join(parts) + "\n"


def setting(facts: Mapping[str, Any]) -> str:
    """Return the sentence that says where and when a run was."""
    machine = facts["machine"]
    return (
        f"Measured on {facts['when'][:10]} at commit {facts['commit']}: {machine['cpu']}, {machine['cores']} cores for "
        f"the client and the broker together, {machine['memory_latency_ns']} ns for a random access to memory, "
        f"{facts['system']}, Linux {facts['kernel']}, Python {facts['python']}, {facts['broker']}. Medians of "
        f"{facts['rounds']} rounds in which the clients take turns; the range is that of the rounds. Figures depend on "
        f"the machine, so compare the ratios.{_bounded(facts)}"
    )


def _bounded(facts: Mapping[str, Any]) -> str:
    """Return what to say when the wire server may be slower than a client."""
    if facts["wire_server"] == "C":
        return ""
    return " There was no C compiler, so the wire server was in Python, and bounds the rates of fast clients."


def with_table(readme: str, run: Run) -> str:
    """Return README with the short table in its place. ValueError when it has no place for one."""
    before, found, after = readme.partition(BEGIN)
    if not found:
        raise ValueError(f"there is no line '{BEGIN}' to put the table behind")
    _, has_end, rest = after.partition(END)
    table = f"{BEGIN}\n\n{short_table(run)}\n\n{setting(run.facts)}\n\n{END}"
    return f"{before}{table}{rest if has_end else after}"


def put_table(path: Path, run: Run) -> None:
    """Put the short table into the file README."""
    path.write_text(with_table(path.read_text(encoding="utf-8"), run), encoding="utf-8")
