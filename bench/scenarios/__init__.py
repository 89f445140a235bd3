"""All scenarios, in the order in which they run."""

from __future__ import annotations

from bench.scenario import Scenario
from bench.scenarios.consuming import CONSUMING
from bench.scenarios.embedded import EMBEDDED
from bench.scenarios.in_process import IN_PROCESS
from bench.scenarios.publishing import PUBLISHING
from bench.scenarios.scraping import SCRAPING
from bench.scenarios.serving import SERVING
from bench.scenarios.steady import STEADY

SCENARIOS: tuple[Scenario, ...] = (*IN_PROCESS, *CONSUMING, *PUBLISHING, *STEADY, *SERVING, *SCRAPING, *EMBEDDED)
