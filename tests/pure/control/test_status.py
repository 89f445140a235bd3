"""What is read from a service's status, and how it is shown."""

from __future__ import annotations

from typing import Any

import pytest

from mxworker.control.status import why_unhealthy, why_unready
from mxworker.control.status_table import paused_text, render


@pytest.mark.parametrize(
    ("state", "wanted", "ready", "all_paused", "why"),
    [
        ("running", 4, 4, False, ""),
        ("running", 4, 3, False, ""),
        ("running", 4, 2, False, "2 of 4 workers consume"),
        ("running", 1, 1, False, ""),
        ("running", 1, 0, False, "0 of 1 workers consume"),
        ("running", 2, 1, False, ""),
        ("running", 4, 4, True, "all queues are paused"),
        ("starting", 4, 4, False, "the service is starting"),
        ("stopping", 4, 4, False, "the service is stopping"),
    ],
)
def test_ready_means_that_all_workers_but_one_consume(
    state: str, wanted: int, ready: int, all_paused: bool, why: str
) -> None:
    assert why_unready(state, wanted, ready, all_paused) == why


def test_the_cause_is_told_where_the_service_waits_for_it() -> None:
    assert why_unready("running", 4, 0, False, "no broker") == "0 of 4 workers consume: no broker"
    assert why_unready("starting", 4, 0, False, "no broker") == "the service is starting: no broker"
    assert why_unready("stopping", 4, 0, False, "no broker") == "the service is stopping"
    assert why_unready("running", 4, 3, False, "no broker") == ""


def test_only_a_worker_that_cannot_be_replaced_is_a_matter_of_health() -> None:
    assert why_unhealthy(is_beyond_repair=False) == ""
    assert "does not end" in why_unhealthy(is_beyond_repair=True)


@pytest.mark.parametrize(
    ("paused", "text"),
    [
        ({"all": False, "queues": []}, ""),
        ({"all": True, "queues": []}, "all queues"),
        ({"all": False, "queues": ["a", "b"]}, "a, b"),
        ({"all": True, "queues": ["a"]}, "all queues; by name: a"),
    ],
)
def test_what_is_paused_is_told(paused: dict[str, Any], text: str) -> None:
    assert paused_text(paused) == text


def worker(slot: int, **facts: Any) -> dict[str, Any]:
    counts = ("in_flight", "acked", "retried", "rejected", "undecodable", "timed_out", "requeued", "restarts")
    nothing = dict.fromkeys(counts, 0)
    return {
        "slot": slot,
        "pid": 100 + slot,
        "state": "running",
        "consuming": "ready",
        "uptime_s": 61.2,
        "rss_bytes": 50 * 2**20,
        "last_exit": "",
        **nothing,
        **facts,
    }


def service(**facts: Any) -> dict[str, Any]:
    return {
        "name": "shop",
        "pid": 7,
        "version": "1",
        "state": "running",
        "uptime_s": 90_061,
        "workers_ready": 1,
        "workers_wanted": 2,
        "generation": 3,
        "unhealthy_because": "",
        "unready_because": "",
        "paused": {"all": False, "queues": []},
        "run_alone": [],
        "reload": {"state": "none", "generation": 1, "why": "", "note": ""},
        "workers": [],
        **facts,
    }


def test_table_lines_up() -> None:
    gone = worker(2, pid=None, state="backoff", uptime_s=None, rss_bytes=None, restarts=3, last_exit="SIGSEGV (crash)")
    spare = worker(3, pid=None, state="empty")
    assert render(
        service(workers=[worker(1, acked=1234567, in_flight=12, rejected=1, undecodable=2), gone, spare])
    ) == (
        "service     shop, process 7, mxworker 1\n"
        "state       running, ready, for 1d 1h\n"
        "workers     1 of 2 consume, code generation 3\n"
        "\n"
        "slot  pid  state    uptime  in flight      acked  retried  rejected  timed out  requeued     RSS  restarts"
        "  last exit\n"
        "   1  101  ready     1m 1s         12  1,234,567        0         3          0         0  50 MiB         0\n"
        "   2    -  backoff       -          0          0        0         0          0         0       -         3"
        "  SIGSEGV (crash)"
    )


def test_refused_reload_and_pauses_are_shown() -> None:
    note = "Error: 'app' was found but failed to import:\n  app.py:3  raise RuntimeError"
    refused = {"state": "refused", "generation": 4, "why": "exit code 3", "note": note}
    shown = render(service(reload=refused, paused={"all": True, "queues": []}, unready_because="all queues are paused"))
    assert "state       running, all queues are paused, for 1d 1h\n" in shown
    assert "paused      all queues\n" in shown
    assert "reload      to generation 4: refused: exit code 3\n            Error: 'app' was found" in shown
    assert "\n              app.py:3  raise RuntimeError\n" in shown


def test_control_characters_from_the_service_do_not_reach_the_terminal() -> None:
    shown = render(service(name="\x1b[2Jshop", workers=[worker(1, last_exit="\x07")]))
    assert "\x1b" not in shown
    assert "\x07" not in shown


def test_queues_whose_messages_kill_are_told() -> None:
    shown = render(service(run_alone=["orders", "mails"]))
    assert "run alone   orders, mails: their messages kill workers" in shown.splitlines()


def test_connections_and_queues_that_fail_are_told() -> None:
    def link(role: str, state: str, why: str) -> dict[str, Any]:
        return {"role": role, "state": state, "why": why, "workers": 2, "since_unix_s": 0}

    queue = {"queue": "orders", "state": "waiting", "why": "404 NOT_FOUND", "workers": 1, "since_unix_s": 0}
    by_operator = {**queue, "queue": "mails", "state": "paused", "why": "operator"}
    server = "RabbitMQ 4.0 at rabbit:5672"
    shown = render(
        service(
            links=[link("consume", "up", server), link("publish", "up", server), link("publish", "blocked", "low")],
            unconsumed=[queue, by_operator],
        )
    ).splitlines()
    assert [line for line in shown if line.startswith("connection")] == [
        f"connection  {server}",
        "connection  2 workers to publish: blocked: low",
    ]
    assert [line for line in shown if line.startswith("queue")] == [
        "queue       orders is waiting in 1 worker: 404 NOT_FOUND"
    ]
