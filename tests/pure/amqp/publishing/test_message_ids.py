"""Ids are short, printable and never the same twice. The forks are in tests/fork."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from mxworker.amqp.publishing.message_ids import MessageIds


def test_id_is_24_characters_of_ascii() -> None:
    for id_ in (ids := MessageIds()).next(), ids.next():
        assert len(id_) == 24
        assert id_.decode("ascii").isprintable()


def test_ids_of_one_source_differ() -> None:
    ids = MessageIds()
    assert len({ids.next() for _ in range(100_000)}) == 100_000


def test_ids_of_threads_differ() -> None:
    ids = MessageIds()
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: ids.next(), range(20_000)))
    assert len(set(made)) == 20_000


def test_ids_of_two_sources_differ_whatever_the_seed() -> None:
    made = []
    for _ in range(2):
        random.seed(1)
        made.append(MessageIds().next())
    assert made[0] != made[1]
