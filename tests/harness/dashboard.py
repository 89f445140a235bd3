"""What the dashboard asks Prometheus, as Prometheus would get it from Grafana."""

from __future__ import annotations

import json

from tests.harness.repository import REPOSITORY

DASHBOARD = REPOSITORY / "conf" / "grafana" / "dashboards" / "mxworker.json"


def expressions(rate_interval: str = "5m") -> dict[str, str]:
    """Return the expressions of the panels and annotations by the name of what shows them, for all of each variable."""
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
    }
    asked |= {annotation["name"]: annotation["expr"] for annotation in dashboard["annotations"]["list"]}
    values = {"$__rate_interval": rate_interval, "$job": ".*", "$instance": ".*", "$queue": ".*"}
    for variable, value in values.items():
        asked = {name: expression.replace(variable, value) for name, expression in asked.items()}
    assert not any("$" in expression for expression in asked.values())
    return asked
