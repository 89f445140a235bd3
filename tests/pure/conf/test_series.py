"""Alert rules and dashboard ask for series that there are, with labels and values that there are."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mxworker.board.metric_values import QueueFacts
from mxworker.master.slot_states import Reason
from mxworker.observer.scrape.scrape import Scrape
from tests.harness.dashboard import expressions
from tests.harness.repository import REPOSITORY
from tests.pure.observer.views import metrics, service, view

RULES = yaml.safe_load((REPOSITORY / "conf" / "prometheus" / "alerts.yml").read_text())
ASKED = {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]} | expressions()
OF_PROMETHEUS = {"job", "instance", "le", "alertname"}
SELECTOR = re.compile(r"\b(mxworker_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


def exported() -> dict[str, dict[str, set[str]]]:
    """Return the values of each label of each series that a service exports."""
    reasons = {reason.value.replace(" ", "_"): 0 for reason in Reason}
    queue = QueueFacts("orders", 1, 1, 1, 1, 1, looked_at_unix_s=view().now_unix_s)
    shown = view(service=service(restarts=reasons), metrics=metrics(queues=(queue,)))
    series: defaultdict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(Scrape().reply(shown, "").body.decode()):
        for sample in family.samples:
            series[sample.name]["__name__"] = {sample.name}
            for label, value in sample.labels.items():
                series[sample.name][label].add(value)
    return series


SERIES = exported()


@pytest.mark.parametrize("name", ASKED)
def test_series_and_labels_exist(name: str) -> None:
    labels: set[str] = set(OF_PROMETHEUS)
    for series, matchers in SELECTOR.findall(ASKED[name]):
        assert series in SERIES
        labels |= SERIES[series].keys()
        for label, _, wanted in MATCHER.findall(matchers):
            assert label in SERIES[series].keys() | OF_PROMETHEUS
            if wanted != ".*":
                assert set(wanted.split("|")) <= SERIES[series][label], (label, wanted)
    grouped = {label.strip() for group in GROUPING.findall(ASKED[name]) for label in group.split(",") if label.strip()}
    assert grouped <= labels
