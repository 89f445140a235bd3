"""All scenarios, in the order in which they run."""

from __future__ import annotations

from bench.scenario import Scenario
from bench.scenarios.consuming import CONSUMING
from bench.scenarios.publishing import PUBLISHING

SCENARIOS: tuple[Scenario, ...] = (*CONSUMING, *PUBLISHING)
