"""The alert rules, judged by promtool: each fires under its fault, and no other fires then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fork.conf.series import FAULTS, MINUTES, Values
from tests.harness.dashboard import expressions
from tests.harness.prometheus import promtool
from tests.harness.repository import REPOSITORY

RULES = REPOSITORY / "conf" / "prometheus" / "alerts.yml"


def alerts() -> dict[str, dict[str, Any]]:
    """Return the alert rules by name, which begins with `Mxworker`."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    checked = promtool("check", "rules", RULES)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_has_a_fault_that_it_tells() -> None:
    told = {f"Mxworker{alert}" for fault in FAULTS.values() for alert in fault.alerts}
    assert told == alerts().keys()


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What promtool has to say against the alerts that fire at any time under the faults."""
    looks = [
        {
            "expr": f"group by (job, alertname) (last_over_time({firing(name)}[{MINUTES}m]))",
            "eval_time": f"{MINUTES}m",
            "exp_samples": [
                {"labels": f'{{alertname="Mxworker{alert}", job="{name}"}}', "value": 1} for alert in fault.alerts
            ],
        }
        for name, fault in FAULTS.items()
    ]
    series = [
        {"series": series.replace('job="shop"', f'job="{name}"'), "values": written(values)}
        for name, fault in FAULTS.items()
        for series, values in fault.series().items()
    ]
    tests = [{"interval": "1m", "input_series": series, "promql_expr_test": looks}]
    file = tmp_path_factory.mktemp("promtool") / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    tested = promtool("test", "rules", file)
    said = tested.stdout + tested.stderr
    assert "FAILED:" in said or tested.returncode == 0, said
    return said


@pytest.mark.parametrize("name", FAULTS)
def test_the_alert_of_the_fault_fires_and_no_other(name: str, wrong: str) -> None:
    assert f'job=\\"{name}\\"' not in wrong, wrong


def firing(job: str) -> str:
    """Return the selector of the alerts on a job."""
    return f'ALERTS{{alertstate="firing", job="{job}"}}'


def written(values: Values) -> str:
    """Return the samples of a series in the notation of promtool."""
    samples = [values(minute) for minute in range(MINUTES)]
    return " ".join("_" if sample is None else f"{sample:.10g}" for sample in samples)


def test_promtool_can_read_what_the_dashboard_asks(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": asked} for number, asked in enumerate(expressions().values())]
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", "--lint=none", file)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtool_finds_nothing_wrong_with_the_configuration() -> None:
    checked = promtool("check", "config", RULES.with_name("prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
