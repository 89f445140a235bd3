"""What becomes of a delivery that failed, by how it failed and what the handler's registration says."""

from __future__ import annotations

from itertools import product

import pytest

from mxworker import Ack, Handlers, Reject, Requeue, Retry, RetryPolicy
from mxworker.api.failures import Failure, FailureKind
from mxworker.api.handler_options import OnError
from mxworker.api.handlers import compile_handlers
from mxworker.api.settlement import Settlement
from mxworker.errors import DecodeError
from mxworker.worker.handling.report import ACK, Report

LADDER = RetryPolicy(delays=(1, 5))
WHAT_IT_MEANS: dict[OnError, type[Settlement]] = {"retry": Retry, "reject": Reject, "requeue": Requeue, "ack": Ack}
FAILURES = {
    FailureKind.FAILED: Failure(FailureKind.FAILED, "KeyError", "'total'"),
    FailureKind.TIMEOUT: Failure(FailureKind.TIMEOUT, "", "timed out after 2 s"),
    FailureKind.CANCELLED: Failure(FailureKind.CANCELLED, "", "cancelled itself"),
    FailureKind.LOST: Failure(FailureKind.LOST, "", "its process was killed"),
}
# Which failures a reject_on takes; what is no exception of the handler's, a cancellation or a loss, is taken by none.
TAKEN: dict[tuple[type[BaseException], ...], set[FailureKind]] = {
    (): set(),
    (ValueError,): set(),
    (KeyError,): {FailureKind.FAILED},
    (ValueError, LookupError): {FailureKind.FAILED},
    (TimeoutError,): {FailureKind.TIMEOUT},
    (Exception,): {FailureKind.FAILED, FailureKind.TIMEOUT},
    (BaseException,): {FailureKind.FAILED, FailureKind.TIMEOUT},
}


def reporting(
    on_error: OnError = "retry",
    reject_on: tuple[type[BaseException], ...] = (),
    retry: RetryPolicy | None = LADDER,
) -> Report:
    handlers = Handlers()

    @handlers.consume("orders", on_error=on_error, reject_on=reject_on, timeout=2, retry=retry)
    async def order(payload: dict) -> None:  # type: ignore[type-arg]
        pass

    (handler,) = compile_handlers(handlers)
    return Report(handler)


def judged(report: Report, kind: FailureKind) -> Settlement:
    match kind:
        case FailureKind.FAILED:
            return report.failed(KeyError("total"))
        case FailureKind.TIMEOUT:
            return report.cancelled(timed_out=True)
        case FailureKind.CANCELLED:
            return report.cancelled(timed_out=False)
        case FailureKind.LOST:
            return report.lost("its process was killed")
    raise AssertionError(kind)


@pytest.mark.parametrize(("on_error", "reject_on", "kind"), [*product(WHAT_IT_MEANS, TAKEN, FAILURES)])
def test_failure_means_what_the_registration_says(
    on_error: OnError, reject_on: tuple[type[BaseException], ...], kind: FailureKind
) -> None:
    settlement = judged(reporting(on_error, reject_on), kind)
    assert type(settlement) is (Reject if kind in TAKEN[reject_on] else WHAT_IT_MEANS[on_error])
    assert settlement.failure == FAILURES[kind]
    assert settlement is not ACK, "the shared one is for successes"
    if isinstance(settlement, Retry):
        assert settlement.after_s is None, "the policy chooses the delay"


@pytest.mark.parametrize(("on_error", "reject_on"), [*product(WHAT_IT_MEANS, TAKEN)])
def test_undecodable_is_rejected_whatever_the_registration_says(
    on_error: OnError, reject_on: tuple[type[BaseException], ...]
) -> None:
    settlement = reporting(on_error, reject_on).undecodable(DecodeError("the body is not JSON"))
    assert isinstance(settlement, Reject)
    assert settlement.failure == Failure(FailureKind.UNDECODABLE, "DecodeError", "the body is not JSON")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()], ids=repr)
def test_what_is_meant_to_end_a_process_is_a_failure_of_its_message(error: BaseException) -> None:
    settlement = reporting().failed(error)
    assert isinstance(settlement, Retry)
    assert settlement.failure is not None
    assert settlement.failure.error_type == type(error).__name__


@pytest.mark.parametrize("chosen", [Ack(), Requeue(), Retry(2, "busy"), Reject("too old")], ids=repr)
def test_what_the_handler_chose_itself_is_taken_as_it_is(chosen: Settlement) -> None:
    settlement = reporting().settled(chosen)
    assert type(settlement) is type(chosen)
    assert vars(settlement) == vars(chosen)
    assert settlement.failure is None


@pytest.mark.parametrize("kind", [Ack, Requeue, Retry, Reject])
def test_class_of_a_settlement_means_a_fresh_one(kind: type[Settlement]) -> None:
    report = reporting()
    first, second = report.settled(kind), report.settled(kind)
    assert type(first) is type(second) is kind
    assert first is not second or first is ACK


def test_delay_above_the_last_step_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    report = reporting()
    for after_s in (1, 5, None):
        report.settled(Retry(after_s))
    assert not caplog.records
    for after_s in (5.5, 3600):
        report.settled(Retry(after_s))
    (warning,) = caplog.messages
    assert warning == (
        "handler order asked for a retry after 5.5 s; its longest delay is 5 s, and that is what it gets. "
        "Add a step to RetryPolicy(delays=...)"
    )


def test_delay_without_any_retries_is_no_matter_of_steps(caplog: pytest.LogCaptureFixture) -> None:
    reporting(retry=None).settled(Retry(3600))
    assert not caplog.records


def test_error_that_cannot_be_shown_is_reported_all_the_same() -> None:
    class Silent(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    settlement = reporting().failed(Silent())
    assert settlement.failure == Failure(FailureKind.FAILED, "Silent", "(its text cannot be shown)")
