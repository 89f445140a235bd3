"""The HTTP server against clients that are slow, greedy, hostile or many, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from mxworker.observer.http.addresses import Address, listen_at
from mxworker.observer.http.connections import CONNECTIONS, HEAD_BYTES, HttpServer, Patience
from mxworker.observer.http.reply import Reply, Request, text_reply
from tests.harness.waiting import until

HELLO = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SOON = Patience(head_s=1.5, reply_s=1.5, idle_s=1.5, linger_s=1.5)
LONG = Patience(head_s=60, reply_s=60, idle_s=60, linger_s=60)
BIG = b"x" * 20_000_000  # more than the buffers of a connection take


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> int:
        """Read one reply, and return its status."""
        return (await self.reply())[0]

    async def reply(self) -> tuple[int, dict[str, str], bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().splitlines()
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines if line)}
        return int(first.split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def is_closed(self) -> bool:
        """Wait for the end of the connection, whatever comes before it."""
        async with asyncio.timeout(30):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        return True


class Served:
    """A server, and its clients."""

    def __init__(self, listening: socket.socket, requests: list[Request]) -> None:
        self.host, self.port = listening.getsockname()[:2]
        self.requests = requests

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection(self.host, self.port))


def say_hello(request: Request) -> Reply:
    return text_reply("hello")


@asynccontextmanager
async def serving(answer: Callable[[Request], Reply] = say_hello, patience: Patience = LONG) -> AsyncIterator[Served]:
    requests: list[Request] = []

    def noting(request: Request) -> Reply:
        requests.append(request)
        return answer(request)

    with listen_at(Address(port=0)) as listening:
        server = await HttpServer(noting, patience).start(listening)
        yield Served(listening, requests)
        server.close()


# ---- what an honest client gets


async def test_connection_serves_one_request_after_the_other() -> None:
    async with serving() as served:
        client = await served.connect()
        for _ in range(3):
            await client.send(HELLO)
            status, headers, body = await client.reply()
            assert (status, body) == (200, b"hello\n")
            assert "connection" not in headers
        assert served.requests == [Request("GET", "/", "localhost", None, "")] * 3


async def test_head_gets_the_headers_alone() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.send(HELLO.replace(b"GET", b"HEAD"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert b"Content-Length: 6\r\n" in head
        await client.send(HELLO)
        assert await client.status() == 200  # it follows the head at once


async def test_client_of_http_1_0_is_served_and_left() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await client.reply())[::2] == (200, b"hello\n")
        assert await client.is_closed()


async def test_client_that_stops_sending_gets_its_reply() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.send(HELLO)
        client.writer.write_eof()
        assert (await client.reply())[2] == b"hello\n"
        assert await client.is_closed()


async def test_large_reply_arrives_whole() -> None:
    async with serving(lambda request: Reply(BIG)) as served:
        client = await served.connect()
        await client.send(HELLO)
        assert (await client.reply())[2] == BIG
        await client.send(HELLO)
        assert (await client.reply())[2] == BIG


async def test_failure_of_ours_costs_one_reply() -> None:
    def fail(request: Request) -> Reply:
        raise ZeroDivisionError

    async with serving(fail) as served:
        client = await served.connect()
        for _ in range(3):
            await client.send(HELLO)
            assert await client.status() == 500


# ---- what is no request that we take


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),  # the begin of a TLS handshake
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
        (b"GET /\xc3\xbc HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET /" + b"x" * HEAD_BYTES, 431),
        (b"x" * HEAD_BYTES * 4, 431),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
async def test_what_is_no_request_is_refused_and_the_connection_ends(raw: bytes, status: int) -> None:
    async with serving() as served:
        client = await served.connect()
        await client.send(raw)
        refused, headers, _ = await client.reply()
        assert (refused, headers["connection"]) == (status, "close")
        assert await client.is_closed()
        assert served.requests == []
        other = await served.connect()
        await other.send(HELLO)
        assert await other.status() == 200


@pytest.mark.parametrize("size", [0, 5, 3_000_000])
async def test_post_is_answered_by_the_routes_and_its_body_thrown_away(size: int) -> None:
    async with serving(lambda request: text_reply(request.method)) as served:
        client = await served.connect()
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n"
        await client.send(head.encode() + b"x" * size)
        assert (await client.reply())[2] == b"POST\n"
        if size:
            client.writer.write_eof()
            assert await client.is_closed()


async def test_second_request_before_the_reply_to_the_first_is_not_served() -> None:
    async with serving() as served:
        client = await served.connect()
        await client.send(HELLO * 100)
        status, headers, _ = await client.reply()
        assert (status, headers["connection"]) == (200, "close")
        assert len(served.requests) == 1
        client.writer.write_eof()
        assert await client.is_closed()


# ---- slow clients


async def test_head_that_does_not_come_ends_the_connection() -> None:
    async with serving(patience=SOON) as served:
        silent, slow = await served.connect(), await served.connect()
        await slow.send(HELLO[:20])
        assert await silent.is_closed()
        assert await slow.is_closed()


async def test_client_that_sends_a_byte_now_and_then_gets_no_more_time() -> None:
    async with serving(patience=SOON) as served:
        client = await served.connect()
        closed = asyncio.ensure_future(client.is_closed())
        for byte in HELLO[:-1] * 100:
            if closed.done():
                break
            try:
                await client.send(bytes([byte]))
            except ConnectionError:
                break
            await asyncio.sleep(0.05)
        assert await closed
        assert served.requests == []


async def test_client_that_does_not_take_its_reply_is_cut_off() -> None:
    async with serving(lambda request: Reply(BIG), SOON) as served:
        client = await served.connect()
        await client.send(HELLO)
        await asyncio.sleep(4)
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert f"Content-Length: {len(BIG)}".encode() in head
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.reader.readexactly(len(BIG))


async def test_idle_connection_ends_after_a_while() -> None:
    async with serving(patience=SOON) as served:
        client = await served.connect()
        await client.send(HELLO)
        assert await client.status() == 200
        assert await client.is_closed()


async def test_client_that_stays_after_its_last_reply_is_left() -> None:
    async with serving(patience=SOON) as served:
        client = await served.connect()
        await client.send(b"nonsense\r\n\r\n")
        assert await client.status() == 400
        assert await client.is_closed()
        await until(lambda: _is_reset(client), 10)


def _is_reset(client: Client) -> bool:
    client.writer.write(b"more")
    return client.writer.transport.is_closing()


# ---- many clients


async def test_client_that_asks_is_served_however_many_idle_ones_are_connected() -> None:
    async with serving() as served:
        idle = [await served.connect() for _ in range(3 * CONNECTIONS)]
        client = await served.connect()
        await client.send(HELLO)
        assert await client.status() == 200
        left = [each for each in idle if not each.reader.at_eof()]
        assert len(left) < CONNECTIONS
        assert await idle[0].is_closed()


async def test_connection_that_was_used_lately_is_not_the_first_to_go() -> None:
    async with serving() as served:
        used, idle = await served.connect(), await served.connect()
        await used.send(HELLO)
        assert await used.status() == 200
        others = [await served.connect() for _ in range(CONNECTIONS - 1)]
        assert await idle.is_closed()
        await used.send(HELLO)
        assert await used.status() == 200
        assert len(others) == CONNECTIONS - 1


async def test_clients_that_take_no_replies_do_not_keep_others_out() -> None:
    async with serving(lambda request: Reply(BIG[:5_000_000])) as served:
        for _ in range(2 * CONNECTIONS):
            client = await served.connect()
            await client.send(HELLO)
        honest = await served.connect()
        start = time.monotonic()
        await honest.send(HELLO)
        assert await honest.status() == 200
        assert time.monotonic() - start < 20
