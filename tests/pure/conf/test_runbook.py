"""Each alert has the texts that a person needs, and a section of the runbook that says what it means and what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.harness.repository import REPOSITORY
from tests.pure.conf.test_series import SERIES

RULES = yaml.safe_load((REPOSITORY / "conf" / "prometheus" / "alerts.yml").read_text())
RUNBOOK = "docs/troubleshooting.md"
SECTIONS = {
    re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")): text
    for title, text in re.findall(
        r"^#+ (.+?)\n(.*?)(?=^#|\Z)", (REPOSITORY / RUNBOOK).read_text(), re.MULTILINE | re.DOTALL
    )
}

of_each_alert = pytest.mark.parametrize(
    "rule", [rule for group in RULES["groups"] for rule in group["rules"]], ids=lambda rule: rule["alert"]
)


@of_each_alert
def test_alert_has_the_texts_that_a_person_needs(rule: dict[str, Any]) -> None:
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("critical", "warning")


@of_each_alert
def test_alert_has_a_section_in_the_runbook(rule: dict[str, Any]) -> None:
    page, _, heading = rule["annotations"]["runbook_url"].partition("#")
    assert page == RUNBOOK
    assert heading == rule["alert"].lower()
    parts = [SECTIONS[heading].find(f"**{part}") for part in ("What it means.", "Triage", "Causes, walking back")]
    assert -1 not in parts
    assert parts == sorted(parts)


@pytest.mark.parametrize("symptom", ["High memory", "Low throughput", "High latency", "Connection trouble"])
def test_symptom_without_an_alert_has_a_section(symptom: str) -> None:
    assert symptom.lower().replace(" ", "-") in SECTIONS


def test_links_of_the_runbook_lead_somewhere() -> None:
    text = (REPOSITORY / RUNBOOK).read_text()
    assert {heading for heading in re.findall(r"\]\(#([^)]+)\)", text) if heading not in SECTIONS} == set()
    for page in re.findall(r"\]\((?!#)([^)#]+)", text):
        assert (REPOSITORY / "docs" / page).exists()


def test_events_and_series_that_the_runbook_names_exist() -> None:
    text = (REPOSITORY / RUNBOOK).read_text()
    events = set(
        re.findall(r"^\| `(\w+)` \|", (REPOSITORY / "docs" / "reference" / "log-events.md").read_text(), re.MULTILINE)
    )
    of_others = {
        *("on_error", "error_type", "timeout_s", "max_in_flight", "publish_nowait", "publish_many", "max_bytes"),
        *("disk_free_limit", "vm_memory_high_watermark", "container_cpu_cfs_throttled_seconds_total"),
    }
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text))
    assert named - events - of_others - {name.removeprefix("mxworker_") for name in SERIES} == set()
