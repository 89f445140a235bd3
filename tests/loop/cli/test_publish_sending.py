"""`mxworker publish` has a bounded number of messages on their way, names each failure, and stops when it must."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mxworker.api.receipts import Receipt
from mxworker.cli.publish.bodies import Body, Lines, content_type_of, same, whole
from mxworker.cli.publish.sending import AT_ONCE, BYTES_AT_ONCE, MOST_FAILURES, Order, Sending, Sent
from mxworker.errors import EncodeError, MessageTooLarge, PublishError, PublishOverflow, PublishUnconfirmed, Unroutable


class FakePublisher:
    """Confirms each message a turn of the loop later, or ends it with an error; counts what is open."""

    def __init__(self, error: PublishError | None = None) -> None:
        self.published: list[bytes] = []
        self.open = self.most_open = self.open_bytes = self.most_open_bytes = 0
        self._error = error

    def publish_nowait(self, body: bytes, **options: Any) -> Receipt:
        if isinstance(self._error, MessageTooLarge):
            raise self._error
        self.published.append(body)
        self.open += 1
        self.open_bytes += len(body)
        self.most_open = max(self.most_open, self.open)
        self.most_open_bytes = max(self.most_open_bytes, self.open_bytes)
        receipt = Receipt("1")
        asyncio.get_running_loop().call_soon(self._end, receipt, len(body))
        return receipt

    def _end(self, receipt: Receipt, size_bytes: int) -> None:
        self.open -= 1
        self.open_bytes -= size_bytes
        receipt.end(self._error)


async def sent(publisher: FakePublisher, bodies: Iterator[Body], **order: Any) -> Sent:
    return await Sending(publisher, Order({"routing_key": "orders"}, **order)).run(bodies)  # type: ignore[arg-type]


async def test_messages_on_their_way_are_bounded() -> None:
    publisher = FakePublisher()
    assert (await sent(publisher, same(b"x", "text/plain", 5 * AT_ONCE))).confirmed == 5 * AT_ONCE
    assert publisher.most_open <= AT_ONCE
    large = FakePublisher()
    await sent(large, same(bytes(BYTES_AT_ONCE // 3), "text/plain", 20))
    assert large.most_open_bytes <= BYTES_AT_ONCE + BYTES_AT_ONCE // 3


@pytest.mark.parametrize("error", [Unroutable("no queue takes it"), MessageTooLarge("too large")])
async def test_each_failure_is_named_until_there_are_too_many(error: Any) -> None:
    result = await sent(FakePublisher(error), same(b"x", "text/plain", 3))
    assert result.failures == [f"message {number} was not published: {error}" for number in (1, 2, 3)]
    assert (result.confirmed, result.stopped) == (0, None)
    many = await sent(FakePublisher(error), same(b"x", "text/plain", 10 * AT_ONCE))
    assert many.stopped == f"{MOST_FAILURES} messages failed"
    assert len(many.failures) <= AT_ONCE + MOST_FAILURES


@pytest.mark.parametrize("error", [PublishOverflow("no broker"), PublishUnconfirmed("lost")])
async def test_broker_that_takes_nothing_stops_it(error: Any) -> None:
    publisher = FakePublisher(error)
    result = await sent(publisher, same(b"x", "text/plain", 10 * AT_ONCE))
    assert result.stopped == "the broker does not take messages now"
    assert len(publisher.published) <= 2 * AT_ONCE


async def test_progress_counts_every_message_and_a_reason_stops() -> None:
    done: list[tuple[int, int]] = []
    reasons = iter([None, None, "interrupted"])
    result = await sent(
        FakePublisher(),
        same(b"x", "text/plain", 5),
        on_progress=lambda messages, size: done.append((messages, size)),
        why_stop=lambda: next(reasons),
    )
    assert (result.confirmed, result.stopped, done) == (2, "interrupted", [(1, 0), (1, 0)])


async def test_lines_are_read_one_by_one_and_faults_are_named(tmp_path: Path) -> None:
    file = tmp_path / "some.ndjson"
    file.write_bytes(b'{"a": 1}\n\n  [2]  \nnot json\n"' + b"x" * 100 + b'"\n3')
    with Lines(str(file), io.BytesIO(), 50) as lines:
        read = list(lines)
    assert [body.content for body in read] == [b'{"a": 1}', b"[2]", b"not json", b"", b"3"]
    assert [body.place.split(" of ")[0] for body in read] == ["line 1", "line 3", "line 4", "line 5", "line 6"]
    assert [body.fault for body in read] == [None, None, "it is no JSON", "it has more than 50 bytes", None]
    assert sum(body.read_bytes for body in read) + 1 == file.stat().st_size  # without the blank line
    result = await sent(FakePublisher(), iter(read))
    assert result.confirmed == 3
    assert [failure.partition(" was")[0] for failure in result.failures] == [f"line 4 of {file}", f"line 5 of {file}"]


@pytest.mark.parametrize(
    ("content", "content_type"),
    [(b"{}", "application/json"), (b"hello", "text/plain"), (b"\xff", "application/octet-stream")],
)
def test_content_type_follows_from_the_body(content: bytes, content_type: str) -> None:
    assert content_type_of(content).startswith(content_type)


def test_stdin_above_the_limit_is_refused() -> None:
    assert whole(io.BytesIO(b"12345"), 5) == b"12345"
    with pytest.raises(EncodeError, match="more than 4 bytes"):
        whole(io.BytesIO(b"12345"), 4)
