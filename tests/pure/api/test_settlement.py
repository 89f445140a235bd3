"""The ways a delivery can end are a closed set of ordinary exceptions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from mxworker.api.settlement import Ack, Reject, Requeue, Retry, Settlement


def test_the_set_is_closed() -> None:
    assert {found for found in _descendants(Settlement) if found.__module__.startswith("mxworker.")} == {
        Ack,
        Requeue,
        Retry,
        Reject,
    }


@pytest.mark.parametrize("settlement", [Ack(), Requeue(), Retry(5), Reject("too old")])
def test_a_settlement_raised_through_a_context_manager_arrives_unchanged(settlement: Settlement) -> None:
    @contextlib.contextmanager
    def handler_uses_this() -> Iterator[None]:
        yield

    with pytest.raises(type(settlement)) as caught, handler_uses_this():
        raise settlement
    assert caught.value is settlement


@pytest.mark.parametrize("settlement", [Ack(), Requeue(), Retry(5), Reject("too old")])
def test_a_settlement_is_caught_by_except_exception_as_every_other_error(settlement: Settlement) -> None:
    assert isinstance(settlement, Exception)


def test_a_rejection_says_why() -> None:
    assert Reject("negative total").reason == "negative total"
    assert str(Reject("negative total")) == "negative total"
    assert Reject().reason == ""


def test_a_retry_says_when_and_why() -> None:
    assert Retry(2.5, "the bank sleeps").after_s == 2.5
    assert Retry(reason="the bank sleeps").reason == "the bank sleeps"
    assert Retry().after_s is None


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf")])
def test_a_retry_after_no_time_is_refused_where_it_is_said(after: float) -> None:
    with pytest.raises(ValueError, match="seconds from 0 on"):
        Retry(after)


def test_a_rejection_can_carry_where_it_came_from() -> None:
    def refuse() -> None:
        try:
            raise KeyError("total")
        except KeyError as error:
            raise Reject("no total") from error

    with pytest.raises(Reject) as caught:
        refuse()
    assert isinstance(caught.value.__cause__, KeyError)


def _descendants(kind: type) -> set[type]:
    return {found for child in kind.__subclasses__() for found in {child, *_descendants(child)}}
