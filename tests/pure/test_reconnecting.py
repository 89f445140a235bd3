"""The way of many connections back to a broker that was away: all of them soon, and not all of them at once.

The chain from a broker that accepts connections to a service that is ready:

1. The wait before the next attempt of a worker, which is random and has a bound.
2. The handshake and the declaration of the queues.
3. The state of the worker on the board, and the signal to the master, which come at once.
4. The status that the master writes, 10 times a second at most. The observer reads it for each request.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise, takewhile

import pytest

from mxworker.brokers import Brokers, BrokerUrl, Rotation
from mxworker.errors import ConnectionLost
from mxworker.master.observer import TELL_APART_NS

READY_WITHIN_S = 5.0
HANDSHAKE_AND_QUEUES_S = 0.5  # some ten milliseconds on a quiet machine
PROCESSES = 800
WINDOW_S = 0.25
LARGEST_SHARE = 0.18  # 12 % on average

DOWN = ConnectionLost("cannot connect: connection refused")


class Most(random.Random):
    """The longest wait there can be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def attempts(brokers: int, rng: random.Random) -> Iterator[tuple[float, BrokerUrl]]:
    """Give when one connection, lost at 0, is tried again, and where. Each attempt is refused at once."""
    rotation = Rotation(Brokers(tuple(BrokerUrl(f"host{number}") for number in range(brokers))), rng)
    now, attempt = 0.0, 0
    rotation.note_failed(rotation.turn(now)[0], DOWN, now)
    while True:
        now += rotation.rest_s(attempt, now)
        url, _ = rotation.turn(now)
        yield now, url
        rotation.note_failed(url, DOWN, now)
        attempt += 1


@pytest.mark.parametrize("brokers", [1, 2, 3, 8])
def test_service_is_ready_five_seconds_after_its_broker_is_back(brokers: int) -> None:
    tried = list(takewhile(lambda attempt: attempt[0] < 120, attempts(brokers, Most())))
    for broker in {url for _, url in tried}:
        instants = [0.0, *(at for at, url in tried if url == broker)]
        longest_s = max(after - before for before, after in pairwise(instants))
        assert longest_s + HANDSHAKE_AND_QUEUES_S + TELL_APART_NS / 1e9 <= READY_WITHIN_S


@pytest.mark.parametrize("outage_s", [3.0, 30.0])
def test_connections_of_many_hosts_do_not_come_back_at_the_same_moment(outage_s: float) -> None:
    back = sorted(next(at for at, _ in attempts(1, random.Random(seed)) if at >= outage_s) for seed in range(PROCESSES))
    fullest = max(bisect_left(back, begin + WINDOW_S) - number for number, begin in enumerate(back))
    assert fullest <= LARGEST_SHARE * PROCESSES
