"""The dashboard is well formed, each panel says what it shows, and none lies over another."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest

from tests.harness.repository import REPOSITORY

DASHBOARD: dict[str, Any] = json.loads((REPOSITORY / "conf" / "grafana" / "dashboards" / "mxworker.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
SHOWING = [panel for panel in PANELS if panel["type"] != "row"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def test_rows_answer_the_questions_in_their_order() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Is it working?", "Queues", "Handlers", "Workers", "Publishing"]


@pytest.mark.parametrize("panel", SHOWING, ids=lambda panel: panel["title"])
def test_panel_says_what_it_shows_and_asks_the_chosen_source(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith((".", ")"))
    assert panel["targets"]
    for asked in (panel, *panel["targets"]):
        assert asked["datasource"] == SOURCE
    refs = [target["refId"] for target in panel["targets"]]
    assert len(refs) == len(set(refs))


def test_panels_are_side_by_side() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    for one, two in combinations([panel["gridPos"] for panel in PANELS], 2):
        apart_x = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
        assert apart_x or apart_y, (one, two)


def test_variables_are_those_that_the_panels_use() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "job", "instance", "queue"}
