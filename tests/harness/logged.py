"""What the test's own process logged, by the names and fields of docs/reference/log-events.md, not by its words."""

from __future__ import annotations

from typing import Any

import pytest


def events(caplog: pytest.LogCaptureFixture, name: str, **fields: Any) -> list[dict[str, Any]]:
    """Return the lines that were logged as events of this name with these fields, each as all its fields."""
    lines = [vars(record) for record in caplog.records if vars(record).get("event") == name]
    return [line for line in lines if all(line.get(field) == value for field, value in fields.items())]
