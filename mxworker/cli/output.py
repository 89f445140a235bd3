"""How commands write JSON, and what they have done, to stdout."""

from __future__ import annotations

import json
import sys
from typing import Any


def as_json(found: Any) -> str:
    """Return JSON on one line, in ASCII, with DEL escaped too, the only control character that JSON leaves as it is."""
    return json.dumps(found).replace("\x7f", "\\u007f")


def tell(line: str) -> None:
    """Write a line of what was done, at once: it has to be there even if this process is killed now."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
