"""What is wrong with a service, worst first: each problem with its reason, and with what a person can do.

Pure. A rule is a function that yields problems; `problems` asks all of them. Numbers of messages alone are no problem:
a long queue is harmless as often as not. Late messages are one.
"""

from __future__ import annotations

from mxworker.observer.overview import service_problems as service
from mxworker.observer.overview import work_problems as work
from mxworker.observer.overview.facts import Facts, Problem

_RULES = (
    service.of_master,
    service.of_consuming_links,
    work.of_queues,
    service.of_workers,
    service.of_hung_workers,
    service.of_publishing_links,
    work.of_publishing,
    work.of_handlers,
    work.of_quarantine,
    work.of_rest,
)


def problems(facts: Facts) -> list[Problem]:
    """Return all problems, the worst first; of those that are equally bad, in the order of the rules."""
    found = [problem for rule in _RULES for problem in rule(facts)]
    return sorted(found, key=lambda problem: -problem.severity)
