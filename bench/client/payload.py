"""The message that all contenders consume and publish."""

from __future__ import annotations

import json
from typing import Any


def payload(body_bytes: int) -> dict[str, Any]:
    """Return an object whose compact JSON has exactly `body_bytes` bytes (58 or more)."""
    order: dict[str, Any] = {"id": 1, "customer": "c-1042", "total": 19.9, "note": ""}
    order["note"] = "x" * (body_bytes - len(json.dumps(order, separators=(",", ":"))))
    return order
