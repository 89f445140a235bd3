"""The answer to /status.json: plain data whose names stay, and the history that it is made with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from mxworker.board.metric_values import ServiceMetrics
from mxworker.observer.overview.facts import Facts
from mxworker.observer.overview.history import POINTS, History
from mxworker.observer.overview.overview import overview
from tests.harness import service_facts
from tests.harness.service_facts import NOW_UNIX_S, STATES, consumer, later, process, service, view, worker

SHAPE = {
    "": "at_unix_s told_s_ago state problems service totals queues workers broker publishing errors history",
    "state": "state text detail",
    "problems": "severity what why remedy since_unix_s extent",
    "service": """
        name version pid state started_at_unix_s uptime_s generation workers_wanted workers_ready
        unhealthy_because unready_because drain_left_s log_level reload paused run_alone
    """,
    "totals": """
        ended_per_s failed_per_s published_per_s acked failed in_flight prefetched ready retry_waiting
        dead_letters quarantined
    """,
    "queues": """
        queue handler state why ready consumers retry_waiting dead_letters quarantined looked_at_unix_s is_depth_old
        ended_per_s ended_per_s_1min ended_per_s_5min failed_per_s duration_p50_s duration_p95_s age_p95_s
        objective_s outcomes redelivered in_flight prefetched stuck slots utilisation last_delivery_unix_s
    """,
    "workers": """
        slot pid state reason generation uptime_s heartbeat_late_s in_flight prefetched stuck ended_per_s
        loop_lag_s rss_bytes cpu restarts restarts_recent last_exit
    """,
    "broker": "links connections channels borrowed_channels reconnects pool_wait_p95_s",
    "publishing": "is_blocked in_flight waiting_for confirm_p50_s confirm_p95_s exchanges",
    "errors": "error queue handler recent total last_unix_s",
    "history": "step_s ended_per_s failed_per_s published_per_s in_flight queues",
}


def shown(state: str) -> dict[str, Any]:
    """Return what a reader of the JSON gets."""
    return orjson.loads(orjson.dumps(overview(STATES[state]())))  # type: ignore[no-any-return]


@pytest.mark.parametrize("part", SHAPE)
def test_the_names_stay(part: str) -> None:
    found: Any = shown("degraded")
    if part:
        found = found[part][0] if isinstance(found[part], list) else found[part]
    assert sorted(found) == sorted(SHAPE[part].split())


def test_a_busy_service_is_told_in_numbers() -> None:
    view = shown("load")
    assert view["totals"]["in_flight"] == 66
    orders = next(queue for queue in view["queues"] if queue["queue"] == "orders")
    assert (orders["state"], orders["ready"], orders["slots"]) == ("consumed", 1671, 64)
    assert 600 < orders["ended_per_s"] < 800
    assert 0.01 < orders["duration_p50_s"] < orders["duration_p95_s"] < 0.1
    assert [len(view["history"][name]) for name in ("ended_per_s", "in_flight")] == [POINTS, POINTS]
    assert view["errors"][0]["error"] == "PaymentDeclined"
    assert view["publishing"]["exchanges"][1]["outcomes"]["confirmed"] > 0
    assert view["workers"][0]["cpu"] > 0


def test_queues_are_told_with_their_state() -> None:
    def states(state: str) -> dict[str, str]:
        return {queue["queue"]: queue["state"] for queue in shown(state)["queues"]}

    assert states("degraded") == {"images": "consumed", "mails": "waiting", "orders": "consumed"}
    assert set(states("lost broker").values()) == {"not connected"}
    assert set(states("draining").values()) == {"draining"}


def test_depths_that_are_old_are_marked_and_do_not_count() -> None:
    busy = service_facts.load()
    metrics = replace(
        busy.metrics, queues=tuple(replace(each, looked_at_unix_s=NOW_UNIX_S - 61) for each in busy.metrics.queues)
    )
    found = overview(later(busy, busy.service, lambda second: metrics, 20))
    assert [queue["is_depth_old"] for queue in found["queues"]] == [True] * len(found["queues"])
    assert [found["totals"][name] for name in ("ready", "retry_waiting", "dead_letters", "quarantined")] == [None] * 4
    assert found["history"]["queues"]["orders"]["ready"][-1] is None
    assert not any(queue["is_depth_old"] for queue in shown("load")["queues"])


def test_slots_that_are_empty_are_not_shown() -> None:
    assert [each["slot"] for each in shown("draining")["workers"]] == [1, 3]


def test_the_row_of_a_handler_that_the_code_no_longer_has_is_not_shown() -> None:
    before = service_facts.idle()
    old = consumer("orders", "former", {"ack": 5}, slots=0), consumer("gone", "former", {"ack": 5}, slots=0)
    metrics = replace(before.metrics, consumers=(*old, *before.metrics.consumers))
    facts = later(before, before.service, lambda second: metrics, 1)
    assert "former" not in {queue["handler"] for queue in overview(facts)["queues"]}


def test_nothing_is_known_at_the_first_look() -> None:
    history = History()
    empty = view(service(worker(1)), ServiceMetrics((), (), (process(1, {}),), ()))
    history.add(empty)
    found = overview(Facts.of(empty, history))
    assert found["totals"]["ended_per_s"] is None
    assert (found["queues"], found["errors"], found["history"]["ended_per_s"]) == ([], [], [])


def test_a_service_that_was_restarted_has_no_negative_rates() -> None:
    facts = service_facts.load()
    restarted = replace(facts.service, pid=9, started_at_unix_s=NOW_UNIX_S)
    few = tuple(replace(row, outcomes={"ack": 3}) for row in facts.metrics.consumers)
    after = later(facts, restarted, lambda second: replace(facts.metrics, consumers=few), 1)
    assert overview(after)["totals"]["ended_per_s"] >= 0


def test_points_come_every_ten_seconds_however_often_it_is_looked() -> None:
    history = History()
    metrics = service_facts.idle().metrics
    for tenth in range(1000):
        history.add(view(service(worker(1)), metrics, tenth / 10))
    assert len(history.points) == 9
