"""Each fault is named with its reason and what to do, and a healthy service has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mxworker.board.metric_values import ConsumerMetrics, ExchangeMetrics, ServiceMetrics
from mxworker.control.status import PausedStatus, ReloadStatus, UnconsumedStatus
from mxworker.observer.overview.facts import Facts, Problem, Severity
from mxworker.observer.overview.problems import problems
from tests.harness import service_facts
from tests.harness.service_facts import NOW_UNIX_S, STATES, depth, later, link, spread, worker

Change = Callable[[ConsumerMetrics], ConsumerMetrics]


def with_status(**facts: Any) -> list[Problem]:
    before = service_facts.idle()
    return problems(later(before, replace(before.service, **facts), lambda second: before.metrics, 1))


def with_metrics(change: Callable[[ServiceMetrics], ServiceMetrics]) -> list[Problem]:
    """Return the problems after metrics have changed."""
    before = service_facts.idle()
    return problems(later(before, before.service, lambda second: change(before.metrics), 2))


def with_row(change: Change) -> list[Problem]:
    """Return the problems after the row of `orders` has changed."""
    return with_metrics(
        lambda metrics: replace(metrics, consumers=(change(metrics.consumers[0]), *metrics.consumers[1:]))
    )


def whats(found: list[Problem]) -> list[str]:
    return [problem.what for problem in found]


@pytest.mark.parametrize("state", ["idle", "load"])
def test_a_healthy_service_has_no_problem(state: str) -> None:
    assert [problem for problem in problems(STATES[state]()) if problem.severity is not Severity.NOTE] == []


def test_the_worst_comes_first_and_each_has_a_reason_and_a_remedy() -> None:
    found = problems(STATES["degraded"]())
    assert [problem.severity for problem in found] == [Severity.WARNING] * 3 + [Severity.NOTE]
    assert all(problem.why and problem.remedy for problem in found)
    queue, crashes, publishes, _ = found
    assert "406 PRECONDITION_FAILED" in queue.why
    assert crashes.why == "last end: killed by SIGSEGV (crash); 7 restarts in the last 5 min"
    assert (publishes.why, publishes.extent) == ("low on memory", " in 1 of 3 workers")


def test_a_lost_broker_is_one_problem() -> None:
    [lost] = [problem for problem in problems(STATES["lost broker"]()) if problem.severity is not Severity.NOTE]
    assert (lost.severity, lost.why, lost.since_unix_s) == (
        Severity.CRITICAL,
        "cannot connect: connection refused",
        NOW_UNIX_S - 72,
    )


def test_one_worker_without_a_connection_is_a_warning() -> None:
    [found] = with_status(links=(link("consume", 1), link("consume", 1, "down", "refused")))
    assert (found.severity, found.extent) == (Severity.WARNING, " in 1 of 2 workers")


def test_a_new_worker_that_does_not_consume_yet_is_no_problem() -> None:
    declaring = UnconsumedStatus("orders", "waiting", "not answered yet", 1, NOW_UNIX_S)
    connecting = link("consume", 1, "down", "not connected yet", 0)
    assert with_status(unconsumed=(declaring,), links=(link("consume", 1), connecting)) == []
    assert len(with_status(unconsumed=(replace(declaring, since_unix_s=NOW_UNIX_S - 4),))) == 1
    assert len(with_status(unconsumed=(replace(declaring, workers=2),))) == 1


@pytest.mark.parametrize(
    ("reason", "severity"),
    [("operator", Severity.NOTE), ("asked", Severity.NOTE), ("circuit breaker", Severity.WARNING)],
)
def test_a_paused_queue_is_told_with_who_paused_it(reason: str, severity: Severity) -> None:
    [found] = with_status(unconsumed=(UnconsumedStatus("orders", "paused", reason, 2, NOW_UNIX_S),))
    assert (found.severity, found.what) == (severity, "queue orders is paused")


def test_queues_are_not_named_when_all_are_paused() -> None:
    paused = (UnconsumedStatus("orders", "paused", "operator", 2, NOW_UNIX_S),)
    assert with_status(unconsumed=paused, paused=PausedStatus(True, ())) == []


def test_a_stopped_queue_names_the_commands() -> None:
    [found] = with_status(unconsumed=(UnconsumedStatus("orders", "stopped", "501 again", 1, NOW_UNIX_S - 4),))
    assert "'mxworker ctl pause orders' and 'resume' it" in found.remedy
    assert found.extent == " in 1 of 2 workers"


def test_workers_that_die_alike_are_one_problem() -> None:
    before = service_facts.idle()
    dying = [worker(slot, pid=None, state="backoff", last_exit="exit code 1 (crash)") for slot in (1, 2)]

    def died(times: int) -> Facts:
        workers = tuple(replace(each, restarts=times) for each in dying)
        return later(before, replace(before.service, workers=workers), lambda second: before.metrics, 1)

    assert whats(problems(died(1))) == ["workers 1, 2 have ended and are started again"]
    assert whats(problems(died(4))) == ["workers 1, 2 crash-loop"]


def test_a_worker_that_has_worked_for_a_minute_is_well() -> None:
    before = service_facts.idle()

    def recovered(uptime_s: float) -> list[Problem]:
        well = worker(1, restarts=5, last_exit="exit code 1 (crash)", uptime_s=uptime_s)
        status = replace(before.service, workers=(well, worker(2)))
        return problems(later(before, status, lambda second: before.metrics, 1))

    assert whats(recovered(59)) == ["worker 1 crash-loops"]
    assert recovered(61) == []


def test_a_reload_or_a_recycled_worker_is_no_crash_loop() -> None:
    workers = (worker(1, restarts=9, last_exit="exit code 0 (reload)"), worker(2, restarts=9, last_exit="(recycle)"))
    assert with_status(workers=workers) == []


def test_hung_workers_are_told() -> None:
    assert whats(with_status(workers=(worker(1, heartbeat_late_s=2.0), worker(2, state="aborting")))) == [
        "workers 1, 2 hang"
    ]


def test_missing_workers_are_told() -> None:
    starting = (worker(1), worker(2, consuming="booting"))
    assert whats(with_status(workers=starting, workers_ready=1)) == ["1 of 2 workers consume"]


def test_a_refused_reload_and_queues_that_kill_are_told() -> None:
    refused = ReloadStatus("refused", 4, "exit code 3", "Error: no module")
    found = with_status(reload=refused, run_alone=("orders",))
    assert whats(found) == ["the reload to generation 4 was refused", "messages of queue orders run alone"]
    assert found[0].why == "exit code 3  Error: no module"


def test_a_process_that_does_not_end_is_critical() -> None:
    assert with_status(unhealthy_because="a hung worker was killed, but its process does not end")[0].severity is (
        Severity.CRITICAL
    )


def test_failures_are_told_by_their_share() -> None:
    def failing(acks: int, retries: int) -> Change:
        def change(row: ConsumerMetrics) -> ConsumerMetrics:
            outcomes = {**row.outcomes, "ack": row.outcomes["ack"] + acks, "retry": retries}
            return replace(row, outcomes=outcomes, failures={"KeyError": retries})

        return change

    [found] = with_row(failing(60, 40))
    assert (found.what, found.why) == ("40% of the deliveries of orders fail", "mostly KeyError")
    assert with_row(failing(960, 40)) == []
    assert with_row(failing(0, 9)) == []


def test_late_messages_are_told_with_what_to_do() -> None:
    def late(busy_s: float, objective_s: float | None) -> Change:
        return lambda row: replace(
            row, age=row.age + spread(100, 20.0), busy_s=row.busy_s + busy_s, objective_s=objective_s
        )

    [found] = with_row(late(0, 5.0))
    assert found.what == "messages of orders are late"
    assert "the objective is 5 s" in found.why
    [found] = with_row(late(16 * 70.0, 5.0))
    assert "all places of the handler are busy" in found.why
    assert with_row(late(0, None)) == []
    assert with_row(late(0, 300.0)) == []


def test_stuck_handlers_are_told() -> None:
    assert whats(with_row(lambda row: replace(row, stuck=3))) == ["3 of 16 places of handler order are stuck"]


def test_a_queue_that_delivers_nothing_is_told() -> None:
    def ready(metrics: ServiceMetrics) -> ServiceMetrics:
        return replace(metrics, queues=(depth("orders", 7), *metrics.queues[1:]))

    assert whats(with_metrics(ready)) == ["queue orders has 7 messages ready, and delivers none"]
    busy = replace(service_facts.idle().metrics.consumers[0], in_flight=1)
    assert with_metrics(lambda metrics: replace(ready(metrics), consumers=(busy, *metrics.consumers[1:]))) == []


def test_publishes_that_fail_are_told() -> None:
    failing = ExchangeMetrics("", {"confirmed": 18_240, "returned": 3, "nacked": 0}, 0)
    [found] = with_metrics(lambda metrics: replace(metrics, exchanges=(failing,)))
    assert (found.what, found.why) == ("publishes to the default exchange fail", "in the last minute: 3 returned")


def test_publishes_to_many_exchanges_are_a_few_problems() -> None:
    exchanges = tuple(ExchangeMetrics(f"x{number}", {"returned": number}, 0) for number in range(40))
    found = with_metrics(lambda metrics: replace(metrics, exchanges=exchanges))
    assert whats(found) == [
        *(f"publishes to {name} fail" for name in ("x39", "x38", "x37")),
        "publishes to 36 other exchanges fail",
    ]
    assert found[-1].why == f"in the last minute: {sum(range(37))} returned"


def test_quarantine_dead_letters_and_lost_log_lines_are_told() -> None:
    def change(metrics: ServiceMetrics) -> ServiceMetrics:
        queues = (depth("orders", 0, quarantined=1, dead_letters=2),)
        first = replace(metrics.processes[0], log_lines_dropped=5)
        return replace(metrics, queues=queues, processes=(first, *metrics.processes[1:]))

    found = with_metrics(change)
    assert [(problem.what, problem.severity) for problem in found] == [
        ("1 message of orders in quarantine", Severity.WARNING),
        ("2 dead letters of orders", Severity.NOTE),
        ("5 log lines lost", Severity.NOTE),
    ]


def test_a_late_event_loop_is_told() -> None:
    def change(metrics: ServiceMetrics) -> ServiceMetrics:
        return replace(metrics, processes=(metrics.processes[0], replace(metrics.processes[1], loop_lag_s=1.5)))

    assert whats(with_metrics(change)) == ["the event loop of worker 2 is 1.5 s late"]
