"""What a handler published and did not wait for: kept while it may fail unseen, for as long as the handler runs."""

from __future__ import annotations

import asyncio

import pytest

from mxworker.amqp.publishing.unawaited import Unawaited, confirm_rest
from mxworker.api.receipts import Receipt
from mxworker.errors import Unroutable


def confirmed() -> Receipt:
    receipt = Receipt("id")
    receipt.end(None)
    return receipt


def failed() -> Receipt:
    receipt = Receipt("id")
    receipt.end(Unroutable("no queue"))
    return receipt


def test_receipt_is_unaccounted_until_it_is_confirmed_or_looked_at() -> None:
    receipt = Receipt("id")
    assert receipt.is_unaccounted
    receipt.end(None)
    assert not receipt.is_unaccounted
    unseen = failed()
    assert unseen.is_unaccounted
    assert isinstance(unseen.exception(), Unroutable)
    assert not unseen.is_unaccounted


def test_confirmed_receipts_do_not_pile_up_in_a_long_handler_and_others_stay() -> None:
    unawaited = Unawaited()
    kept = [failed(), Receipt("open")]
    for receipt in kept:
        unawaited.add(receipt)
    for _ in range(100_000):
        unawaited.add(confirmed())
    taken = unawaited.take()
    assert len(taken) <= 1024
    assert taken[:2] == kept


def test_unaccounted_receipts_are_all_kept() -> None:
    unawaited = Unawaited()
    receipts = [Receipt(str(number)) for number in range(5000)]
    for receipt in receipts:
        unawaited.add(receipt)
    assert unawaited.take() == receipts


def test_nothing_is_kept_after_the_handler_has_returned() -> None:
    unawaited = Unawaited()
    taken = unawaited.take()
    unawaited.add(Receipt("late"))
    assert taken == []


def test_first_failure_is_raised_and_a_seen_one_is_not() -> None:
    seen = failed()
    seen.exception()
    asyncio.run(confirm_rest([confirmed(), seen]))
    with pytest.raises(Unroutable):
        asyncio.run(confirm_rest([confirmed(), failed()]))
