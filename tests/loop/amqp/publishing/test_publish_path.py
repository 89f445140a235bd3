"""The way of a publish is the one that the package describes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import mxworker.amqp.publishing
from mxworker import Publisher
from tests.loop.amqp.fake_broker import FakeBroker
from tests.loop.amqp.publishing.confirming import Confirming


@contextmanager
def calls() -> Iterator[list[str]]:
    """Note the qualified name of every Python function that is called in this thread."""
    names: list[str] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            names.append(frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        yield names
    finally:
        sys.setprofile(None)


def described() -> list[str]:
    """Return the functions of the numbered steps, in their order."""
    steps = re.findall(r"^\d\. (.*)$", mxworker.amqp.publishing.__doc__ or "", re.MULTILINE)
    return [name for step in steps for name in re.findall(r"`([A-Z]\w+\.\w+)`", step)]


async def test_publish_takes_the_steps_that_the_package_describes() -> None:
    confirming = Confirming()
    async with (
        FakeBroker(confirming.script) as broker,
        Publisher.connect(broker.url.dsn, channels=1, timeout_s=60.0) as publisher,
    ):
        first = publisher.publish_nowait(b"", routing_key="q")
        (warm,) = await confirming.until(1)
        warm.ack()
        await first
        with calls() as made:
            receipt = publisher.publish_nowait(b"", routing_key="q")
            (await confirming.until(2))[1].ack()
            await receipt
    steps = [name.replace("Publisher.publish", "Publisher.publish_nowait") for name in described()]
    assert len(steps) >= 12
    made_so_far = iter(made)
    for step in steps:
        assert step in made_so_far, f"{step} is not called, or not at its place"
