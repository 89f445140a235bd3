"""Looking at dead letters consumes none, changes none, and keeps their order, however often somebody looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mxworker.brokers import Brokers
from mxworker.errors import ConnectionLost
from mxworker.letters.connecting import connected
from mxworker.letters.holding import Hold
from mxworker.letters.letter import Letter, Original
from mxworker.letters.looking import look
from mxworker.letters.renewal import RENEWED_AT
from tests.broker.letters.dead import Dead, letter, numbers
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

LETTERS = 12
WAIT_S = 30.0
BACK_S = 20.0
VOLATILE = ("x-delivery-count", "x-acquired-count")


class Looks:
    """Looks over one connection."""

    def __init__(self, url: str, dead: Dead) -> None:
        self._brokers = Brokers.parse([url])
        self._dead = dead

    async def run(self, times: int) -> list[list[Letter]]:
        found: list[list[Letter]] = []
        async with connected(self._brokers, WAIT_S) as connection:
            for _ in range(times):
                seen: list[Letter] = []

                def see(letter: Letter, _: Original, seen: list[Letter] = seen) -> None:
                    seen.append(letter)

                await look(connection, self._brokers, self._dead.name, see, WAIT_S)
                assert await asyncio.to_thread(lambda: self._dead.count) == LETTERS
                found.append(seen)
        return found


def wire(dead: Dead) -> list[tuple[bytes, bytes, dict[str, object]]]:
    """Take all letters, without what the broker counts."""
    return [
        (
            each.body,
            str(each.properties.message_id).encode(),
            {name: value for name, value in each.headers.items() if name not in VOLATILE},
        )
        for each in dead.take()
    ]


def expected() -> list[tuple[bytes, bytes, dict[str, object]]]:
    return [
        (body, str(properties.message_id).encode(), dict(properties.headers or {}))
        for body, properties in map(letter, range(LETTERS))
    ]


async def test_letter_survives_a_thousand_looks(
    broker_url: str, admin: Client, queue_name: str, scale: Callable[[int, int], int]
) -> None:
    dead = Dead(admin, queue_name)
    dead.put(map(letter, range(LETTERS)))
    times = scale(24, 1000)
    found = await Looks(broker_url, dead).run(times)
    assert [[each.key for each in seen] for seen in found] == [[each.key for each in found[0]]] * times
    assert found[-1][0].delivery_count == times - 1  # so no letter was renewed
    assert wire(dead) == expected()


async def test_letter_in_a_queue_with_the_limit_of_the_broker_survives_a_thousand_looks(
    broker_url: str, node: Node, admin: Client, queue_name: str, scale: Callable[[int, int], int]
) -> None:
    dead = Dead(admin, queue_name, keeps_returned=False)
    dead.put(map(letter, range(LETTERS)))
    times = scale(24, 1000)
    with node.expect_precondition_failed(lambda: times // (RENEWED_AT + 1)):
        found = await Looks(broker_url, dead).run(times)
    assert [[each.key for each in seen] for seen in found] == [[each.key for each in found[0]]] * times
    assert max(each.delivery_count for seen in found for each in seen) == RENEWED_AT
    assert wire(dead) == expected()


async def test_letter_that_arrives_during_a_look_is_not_shown(broker_url: str, admin: Client, queue_name: str) -> None:
    dead = Dead(admin, queue_name)
    dead.put(map(letter, range(LETTERS)))
    brokers = Brokers.parse([broker_url])
    seen: list[str | None] = []

    def see(found: Letter, _: Original) -> None:
        if not seen:
            dead.put([letter(LETTERS)])
        seen.append(found.message_id)

    async with connected(brokers, WAIT_S) as connection:
        assert await look(connection, brokers, dead.name, see, WAIT_S) == LETTERS
    assert seen == [f"order-{number}" for number in range(LETTERS)]
    assert numbers(dead.take()) == list(range(LETTERS + 1))


@pytest.mark.parametrize("ends_by", ["close", "loss"])
async def test_letters_of_several_consumers_are_all_shown_and_keep_their_order(
    broker_url: str, admin: Client, queue_name: str, monkeypatch: pytest.MonkeyPatch, ends_by: str
) -> None:
    monkeypatch.setattr("mxworker.letters.holding._LARGEST_PREFETCH", 50)  # so that it takes seven consumers
    dead = Dead(admin, queue_name)
    dead.put(map(letter, range(501)))
    brokers = Brokers.parse([broker_url])
    for _ in range(2):  # the second time the queue has all letters among those that were given back
        assert await _seen_until(ends_by, brokers, dead.name, 501) == [f"order-{number}" for number in range(501)]
        wait_until(lambda: dead.count == 501, BACK_S, "all letters back in their queue")


async def _seen_until(ends_by: str, brokers: Brokers, name: str, letters: int) -> list[str | None]:
    """Hold all letters until a close or a loss of the connection, and return their ids."""
    seen: list[str | None] = []
    async with connected(brokers, WAIT_S) as connection:
        if ends_by == "close":
            await look(connection, brokers, name, lambda found, _: seen.append(found.message_id), WAIT_S)
        else:
            hold = Hold(connection, name, lambda delivery: seen.append(delivery.message_id))
            await hold.take(lambda: hold.taken == letters)
            connection.plane.abort(ConnectionLost("cut off by the test"))
    return seen


async def test_what_fails_while_it_is_shown_ends_the_look_with_its_own_error(
    broker_url: str, admin: Client, queue_name: str
) -> None:
    dead = Dead(admin, queue_name)
    dead.put(map(letter, range(LETTERS)))
    brokers = Brokers.parse([broker_url])

    def see(found: Letter, original: Original) -> None:
        raise BrokenPipeError("gone")

    async with connected(brokers, WAIT_S) as connection:
        with pytest.raises(BrokenPipeError, match="gone"):
            await look(connection, brokers, dead.name, see, WAIT_S)
        assert connection.plane.lost.done() is False
    assert dead.count == LETTERS
