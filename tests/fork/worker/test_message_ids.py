"""A child that inherits the source of message ids makes others than its parent and its siblings."""

from __future__ import annotations

import os
import random

from mxworker.amqp.publishing.message_ids import MessageIds

FORKS = 16
IDS_EACH = 10_000


def ids_of_a_child(ids: MessageIds) -> bytes:
    """Return the ids that a forked child makes, one a line."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            random.seed(1)
            with os.fdopen(write_end, "wb") as pipe:
                pipe.writelines(ids.next() + b"\n" for _ in range(IDS_EACH))
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        made = pipe.read()
    os.waitpid(pid, 0)
    return made


def test_no_two_ids_of_forked_processes_are_alike() -> None:
    random.seed(1)
    ids = MessageIds()
    made = [ids.next()]
    for _ in range(FORKS):
        made += ids_of_a_child(ids).split()
    made += [ids.next() for _ in range(IDS_EACH)]
    assert len(made) == 1 + IDS_EACH * (FORKS + 1)
    assert len(set(made)) == len(made)
