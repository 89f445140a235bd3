"""The one line that says how the service is, in each of its states."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mxworker.control.status import PausedStatus, UnconsumedStatus
from mxworker.observer.overview.facts import Facts
from mxworker.observer.overview.headline import Headline, headline
from mxworker.observer.overview.history import History
from mxworker.observer.overview.problems import problems
from mxworker.observer.overview.view import View
from tests.harness import service_facts
from tests.harness.service_facts import NOW_UNIX_S, STATES, later, link, worker


def told(facts: Facts) -> Headline:
    return headline(facts, problems(facts))


def idle(**facts: Any) -> Facts:
    """Return the idle service, with other facts of its status."""
    before = service_facts.idle()
    return later(before, replace(before.service, **facts), lambda second: before.metrics, 1)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("idle", "Working"),
        ("load", "Working"),
        ("degraded", "Degraded: queue mails is not consumed, worker 2 crash-loops, the broker takes no publishes"),
        ("draining", "Draining: 3 handlers left, at most 12 s"),
        ("lost broker", "Not consuming: there is no connection to the broker since 14:00:59 UTC"),
    ],
)
def test_each_state_has_its_sentence(state: str, text: str) -> None:
    assert told(STATES[state]()).text == text


@pytest.mark.parametrize(
    ("state", "detail"),
    [
        ("idle", "2 of 2 workers consume 3 queues. No message has ended in the last minute."),
        ("load", "4 of 4 workers consume 3 queues. 774 messages a second, 66 in flight."),
        ("degraded", "0 of 4 workers consume all queues, 3 some of them. 920 messages a second, 45 in flight."),
    ],
)
def test_what_the_service_does_is_told(state: str, detail: str) -> None:
    assert told(STATES[state]()).detail == detail


def test_one_worker_is_told_in_the_singular() -> None:
    assert told(idle(workers=(worker(1),), workers_ready=1, workers_wanted=1)).detail.startswith(
        "1 of 1 worker consumes "
    )


def test_only_the_time_that_is_known_is_told() -> None:
    facts = service_facts.idle()
    view = View(facts.now_unix_s, facts.now_s, facts.metrics, facts.service, facts.told_s_ago)
    history = History()
    history.add(view)
    assert told(Facts.of(view, history)).detail.endswith(" messages a second, 0 in flight.")
    history.add(replace(view, now_s=view.now_s + 2))
    assert told(Facts.of(view, history)).detail.endswith(" No message has ended in the last 2 s.")


def test_a_service_that_starts_tells_what_it_waits_for() -> None:
    connecting = (worker(1, consuming="connecting"),)
    assert told(idle(state="starting", workers=connecting, links=())).text == "Starting"
    down = link("consume", 1, "down", "connection refused", 4)
    shown = told(idle(state="starting", workers=connecting, links=(down,))).text
    assert shown == "Starting: there is no connection to the broker since 14:02:07 UTC"


def test_a_pause_of_all_queues_is_no_fault() -> None:
    by_operator = tuple(UnconsumedStatus(name, "paused", "operator", 2, 0) for name in ("orders", "mails", "stock"))
    shown = told(idle(paused=PausedStatus(True, ()), unconsumed=by_operator))
    assert (shown.state, shown.text) == ("paused", "Paused: an operator has paused all queues")
    assert told(idle(unconsumed=by_operator)).text == "Paused: every queue is paused"
    assert told(idle(unconsumed=by_operator[:2])).text == "Working"


def test_no_worker_is_not_consuming() -> None:
    gone = (worker(1, pid=None, state="empty", consuming="vacant"),)
    assert told(idle(workers=gone, workers_wanted=1, workers_ready=0, links=())).state == "not consuming"


def test_a_silent_master_is_told_before_anything_else() -> None:
    facts = replace(STATES["draining"](), told_s_ago=12.0)
    assert told(facts).text == "Unsupervised: the master process has said nothing for 12 s"


def test_the_end_of_a_drain_is_told() -> None:
    ended = tuple(worker(slot, consuming="draining", state="stopping") for slot in (1, 2))
    assert told(idle(state="stopping", workers=ended, drain_left_s=8.0)).text == "Draining: no handler is left"


def test_more_than_three_problems_are_counted() -> None:
    refused = tuple(UnconsumedStatus(f"q{number}", "waiting", "404", 2, NOW_UNIX_S) for number in range(5))
    shown = told(idle(unconsumed=refused)).text
    assert shown == "Degraded: queue q0 is not consumed, queue q1 is not consumed, queue q2 is not consumed, and 2 more"
