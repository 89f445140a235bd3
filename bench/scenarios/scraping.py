"""What a scrape of a large service costs, in all and in its steps."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import partial

from bench.ours.scraping import FOLD, TEXT, WHOLE
from bench.procedure import Procedure
from bench.scenario import Failed, Measures, Place, Scenario

_SCRAPES = 20
_SHOWN_CHARACTERS = 600


def scrape(place: Place, step: str) -> Measures:
    """Return the median time of a step of a scrape, in a process of its own."""
    command = [sys.executable, "-m", "bench.ours.scraping", f"--rounds={_SCRAPES}", step]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"median +([0-9.]+) ms", ended.stdout)
    if found is None:
        raise Failed(ended.stderr[-_SHOWN_CHARACTERS:])
    return {"took_ms": float(found[1])}


SCRAPING: tuple[Scenario, ...] = (
    Scenario(
        "scrape",
        "a scrape of a service with 32 worker slots and 50 handlers",
        tuple(Procedure(step, partial(scrape, step=step)) for step in (WHOLE, TEXT, FOLD)),
        "took_ms",
    ),
)
