"""What is known about exchanges is known on one connection, and every look is answered."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mxworker.amqp.publishing.exchanges import Exchanges
from mxworker.errors import ConnectionLost, PublishError, PublishNacked, TopologyRefused, Unroutable
from tests.harness.waiting import until


class Connection:
    """Stands for a connection, its channel and what is under that; answers when a test says so."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed = 0

    async def channel(self) -> Connection:
        return self

    async def get_underlay_channel(self) -> Connection:
        return self

    async def exchange_declare(self, exchange: str, passive: bool) -> None:
        assert passive
        await self.answer

    async def close_channel(self, channel: Connection) -> None:
        self.closed += 1


Answers = list[tuple[str, type[PublishError] | None]]


def look(exchanges: Exchanges, connection: Any) -> Answers:
    """Look for the exchange "e", and return what is answered once it is."""
    answers: Answers = []
    exchanges.look("e", connection, lambda name, missing: answers.append((name, missing and type(missing))))
    assert answers == [], "answered later"
    return answers


def looking() -> tuple[Exchanges, Any, Answers]:
    """Return what is known on a connection, that connection, and the answers to the look that is under way there."""
    exchanges = Exchanges()
    connection: Any = Connection()
    exchanges.use(connection)
    return exchanges, connection, look(exchanges, connection)


async def test_exchange_is_known_once_it_is_found() -> None:
    exchanges, connection, answers = looking()
    await asyncio.sleep(0)
    assert exchanges.known == {""}
    connection.answer.set_result(None)
    await until(lambda: answers)
    assert answers == [("e", None)]
    assert exchanges.known == {"", "e"}
    await until(lambda: connection.closed, what="the end of the channel")


async def test_answer_of_a_connection_that_was_replaced_makes_nothing_known() -> None:
    exchanges, first, answers = looking()
    second: Any = Connection()
    await asyncio.sleep(0)
    exchanges.use(second)
    first.answer.set_result(None)
    await until(lambda: answers)
    assert answers == [("e", None)], "so that it is looked for there"
    assert exchanges.known == {""}


@pytest.mark.parametrize(
    ("error", "expected"),
    [(TopologyRefused("404 no exchange 'e'"), Unroutable), (ConnectionLost("gone"), None)],
    ids=["missing", "nobody-knows"],
)
async def test_exchange_that_is_not_found_is_not_known(error: Exception, expected: type[PublishError] | None) -> None:
    exchanges, connection, answers = looking()
    connection.answer.set_exception(error)
    await until(lambda: answers)
    assert answers == [("e", expected)]
    assert exchanges.known == {""}


async def test_look_is_answered_when_it_is_given_up() -> None:
    exchanges, _, answers = looking()
    await asyncio.sleep(0)
    await exchanges.close()
    assert answers == [("e", None)]


async def test_refusal_that_lasts_is_remembered_until_there_is_another_connection() -> None:
    exchanges = Exchanges()
    first: Any = Connection()
    second: Any = Connection()
    exchanges.use(first)
    exchanges.known.add("e")
    error = PublishNacked("access refused")
    exchanges.note_refused("e", error, is_lasting=False)
    assert exchanges.known == {""}
    assert exchanges.refusal("e") is None
    exchanges.note_refused("e", error, is_lasting=True)
    assert exchanges.refusal("e") is error
    exchanges.use(second)
    assert exchanges.refusal("e") is None
