"""An entry that is a function, for what is no contest between clients."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass

from bench.scenario import Measures, Place


@dataclass(frozen=True, slots=True)
class Procedure:
    """Something to do, and what it measures."""

    name: str
    measure: Callable[[Place], Measures]
    prepare: Callable[[], str] = lambda: f"Python {platform.python_version()}"
