"""What a type checker says to those who use mxworker: a word about each mistake, in names that they can import."""

from __future__ import annotations

import difflib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pure.test_public_interface import is_ours, public_names

WRONG = "# wrong"
PROGRAM = """
from mxworker import CallNext, Context, Handlers, Message, Publisher, Queue, Reject, RetryPolicy, Retry, Settlement
from mxworker import HandlerOptions, Receipt, PublishOutcome, wait_all, drain
from mxworker import Reciept  # wrong
import mxworker

handlers = Handlers()
usual: HandlerOptions = {"timeout": 5, "retry": None}


@handlers.consume("orders", concurrency=3)
async def order(payload: dict[str, object], ctx: Context) -> Settlement | None:
    await ctx.publisher.publish({}, routing_key="x", priority=3)
    receipt: Receipt = ctx.publisher.publish_nowait({}, routing_key="x")
    outcomes: list[PublishOutcome] = await wait_all([receipt])
    async with ctx.channel() as channel:
        await channel.declare_queue("x")
    return Reject("no")


@handlers.consume("labels", cpu=True, **usual)
def label(payload: bytes) -> None: ...


@handlers.middleware
async def audit(payload: object, ctx: Context, call_next: CallNext) -> object:
    return await call_next(payload, ctx)


@handlers.consume("q1", concurency=3)  # wrong
async def misspelt(payload: bytes) -> None: ...
@handlers.consume("q2", concurrency="3")  # wrong
async def text_for_a_number(payload: bytes) -> None: ...
@handlers.consume("q3", retry=3, circuit_breaker=True)  # wrong
async def other_types(payload: bytes) -> None: ...
@handlers.consume("q4", on_error="drop")  # wrong
async def no_such_word(payload: bytes) -> None: ...
@handlers.consume("q5", reject_on="ValueError")  # wrong
async def no_class(payload: bytes) -> None: ...
@handlers.consume  # wrong
async def no_queue(payload: bytes) -> None: ...
@handlers.consume_batch("q6", size="3")  # wrong
async def batch_of_text(payloads: list[bytes]) -> None: ...
@handlers.consume_batch("q7", cpu=True)  # wrong
async def batch_on_a_cpu(payloads: list[bytes]) -> None: ...


async def mistakes(ctx: Context, receipt: Receipt, call_next: CallNext) -> object:
    ctx.publisher.publish({}, routing_key="x")  # wrong
    await ctx.publisher.publish({}, routing_ky="x")  # wrong
    await ctx.publisher.publish({}, routing_key="x", priorty=3)  # wrong
    await ctx.publisher.publish({}, routing_key="x", priority="3")  # wrong
    await ctx.publisher.publsh({}, routing_key="x")  # wrong
    ctx.channel().declare_queue("x")  # wrong
    ctx.pause(3)  # wrong
    ctx.delivery.ack()  # wrong
    ctx.delivery.propertis  # wrong
    ctx.attempt = 3  # wrong
    ctx.delivery.origin.exchange  # wrong
    number: int = ctx.stats  # wrong
    number = ctx.publisher.stats  # wrong
    number = ctx.publisher.prepare(b"")  # wrong
    number = ctx.delivery.properties  # wrong
    number = receipt.result()  # wrong
    number = receipt.exception()  # wrong
    outcome, = await ctx.publisher.publish_many([1], routing_key="x")
    outcome.message_id  # wrong
    await drain(ctx)  # wrong
    await call_next(1)  # wrong
    return Retry("5")  # wrong


async def elsewhere() -> None:
    publisher = Publisher.connect("amqp://rabbit")
    publisher.publish(b"", routing_key="x")  # wrong
    async with Publisher.connect("amqp://rabbit", overflow="drp") as other:  # wrong
        pass
    async with Publisher.connect("amqp://rabbit", chanels=3) as other:  # wrong
        pass


handlers.middleware(3)  # wrong
handlers.lifespn  # wrong
handlers.codec("a/b", str, encode=str)  # wrong
handlers.include(3)  # wrong
Queue("x", type="stream")  # wrong
Queue("x", bind=[("a",)])  # wrong
RetryPolicy(delays=3)  # wrong
Message(b"", priority="3")  # wrong
mxworker.wait_al  # wrong
"""


def test_each_mistake_is_told_in_names_that_can_be_imported(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "app.py").write_text(PROGRAM)
    checking = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--no-error-summary", "app.py"]
    told = subprocess.run(checking, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    errors = {int(number): text for number, text in re.findall(r"^app.py:(\d+): error: (.*)$", told, re.MULTILINE)}
    wrong = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith(WRONG)}
    assert errors.keys() == wrong, told
    for text in errors.values():
        assert not re.search(r"\b_\w|\bmxworker\.", text), text


@pytest.mark.parametrize("public", [name for name, kind in public_names().items() if isinstance(kind, type)])
def test_no_private_name_is_offered_for_one_that_is_misspelt(public: str) -> None:
    kind = public_names()[public]
    names = {name for owner in kind.__mro__ if is_ours(owner) for name in names_in(owner)}
    for name in names:
        if not name.startswith("_"):
            for misspelt in misspellings(name):
                offered = [other for other in offers(misspelt, names) if other.startswith("_")]
                assert not offered, f"{public}.{misspelt} could mean {offered}"


def names_in(kind: type) -> set[str]:
    """Return the names of a class and of what its methods set, as a type checker has them."""
    own = {name for name in vars(kind) if not name.startswith("__")}
    return own | set(re.findall(r"\bself\.(\w+)", inspect.getsource(kind)))


def misspellings(name: str) -> Iterator[str]:
    """Yield the name with a letter left out, and with two letters swapped."""
    for place in range(len(name)):
        yield name[:place] + name[place + 1 :]
        if place + 1 < len(name):
            yield name[:place] + name[place + 1] + name[place] + name[place + 2 :]


def offers(misspelt: str, names: set[str]) -> list[str]:
    """Return what mypy offers instead: `best_matches` in its messages.py."""
    likeness = {name: difflib.SequenceMatcher(a=misspelt, b=name).ratio() for name in names}
    alike = [name for name in names if likeness[name] > 0.75]
    return sorted(alike, key=lambda name: (-likeness[name], name))[:3]
