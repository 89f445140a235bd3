"""How the commands of `mxworker dlq` write JSON."""

from __future__ import annotations

import json
from typing import Any


def as_json(found: Any) -> str:
    """Return JSON on one line, in ASCII, with DEL escaped too, the only control character that JSON leaves as it is."""
    return json.dumps(found).replace("\x7f", "\\u007f")
