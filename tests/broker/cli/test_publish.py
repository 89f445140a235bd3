"""`mxworker publish` confirms what it publishes, names what it cannot, and its exit code tells which it was."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.hostile_text import assert_harmless
from tests.harness.repository import REPOSITORY
from tests.harness.service import write_app
from tests.rabbit.client import Client

PATIENCE_S = 60.0
APP = """
    from dataclasses import dataclass

    from mxworker import Handlers

    handlers = Handlers()


    @dataclass
    class Order:
        id: int
        total: float


    @handlers.consume("QUEUE")
    async def order(order: Order) -> None:
        pass
"""
Run = Callable[..., subprocess.CompletedProcess[bytes]]


def environment(url: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "MXWORKER_BROKER_URL": url, "COLUMNS": "80"}


@pytest.fixture
def publish(broker_url: str, tmp_path: Path) -> Run:
    def run(*arguments: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        ended = subprocess.run(
            [sys.executable, "-m", "mxworker", "publish", *arguments],
            cwd=tmp_path,
            env=environment(broker_url),
            input=said,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert_harmless(ended.stderr.decode())
        return ended

    return run


@pytest.fixture
def queue(admin: Client, queue_name: str) -> str:
    admin.declare_quorum(queue_name)
    return queue_name


def test_body_is_published_with_headers_so_often_as_asked(publish: Run, queue: str, admin: Client) -> None:
    ended = publish(queue, '{"id": 1}', "--count", "3", "--header", "tenant=acme")
    assert (ended.returncode, ended.stdout) == (0, b"")
    assert ended.stderr.decode() == f"3 messages published to {queue} and confirmed.\n"
    received = admin.drain(queue)
    assert [(each.body, each.headers["tenant"]) for each in received] == [(b'{"id": 1}', "acme")] * 3
    assert received[0].properties.content_type == "application/json"
    assert received[0].properties.delivery_mode == 2


def test_stdin_and_exchange(publish: Run, queue: str, admin: Client) -> None:
    exchange = f"{queue}.shop"
    admin.declare_exchange(exchange, "topic")
    admin.bind(queue, exchange, "new.*")
    try:
        assert publish("new.eu", "-", "--exchange", exchange, said=b"\xff\x00").returncode == 0
        unroutable = publish("old.eu", "x", "--exchange", exchange, "--json")
    finally:
        admin.delete_exchange(exchange)
    assert [each.body for each in admin.drain(queue)] == [b"\xff\x00"]
    assert unroutable.returncode == 1
    assert "old.eu" in unroutable.stderr.decode()
    assert "message 1" in unroutable.stderr.decode()
    assert json.loads(unroutable.stdout)["published"] == 0


def test_lines_of_a_file_are_published_in_order(publish: Run, queue: str, broker_url: str, tmp_path: Path) -> None:
    lines = [b"%d" % number for number in range(1500)]
    (tmp_path / "some.ndjson").write_bytes(b"\n".join([*lines[:1200], b"oops", *lines[1200:]]))
    ended = publish(queue, "--file", "some.ndjson")
    assert ended.returncode == 1
    assert "line 1201 of some.ndjson was not published: it is no JSON" in ended.stderr.decode()
    with Client(broker_url) as client:
        assert client.counts(queue).messages == len(lines)
        assert [each.body for each in client.hold(queue, len(lines))] == lines  # much faster than a get for each


def test_lines_of_stdin_are_published_up_to_the_count(publish: Run, queue: str, admin: Client) -> None:
    assert publish(queue, "--file", "-", "--count", "2", said=b"1\n2\n3\n").returncode == 0
    assert [each.body for each in admin.drain(queue)] == [b"1", b"2"]


def test_sample_is_one_that_the_handler_takes(publish: Run, queue: str, admin: Client, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    write_app(tmp_path, APP.replace("QUEUE", queue))
    ended = publish(queue, "--sample", "app:handlers")
    assert ended.returncode == 0, ended.stderr
    assert set(json.loads(admin.drain(queue)[0].body)) == {"id", "total"}
    other = publish("other", "--sample", "app:handlers")
    assert other.returncode == 2
    assert f"Its queues: {queue}." in other.stderr.decode()
    assert publish(queue, "--sample", "nothing:handlers").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["QUEUE"], 2, "Give one of BODY"),
        (["QUEUE", "x", "--file", "f"], 2, "Give one of BODY"),
        (["QUEUE", "x", "--header", "tenant"], 2, "name=value"),
        (["QUEUE", "--file", "missing.ndjson"], 2, "missing.ndjson"),
        (["QUEUE", "x", "--broker-url", "amqp://guest@127.0.0.1:1/", "--connect-wait", "3s"], 4, "refused"),
    ],
)
def test_mistake_is_named_with_its_exit_code(
    publish: Run, queue_name: str, arguments: list[str], code: int, text: str
) -> None:
    ended = publish(*(each.replace("QUEUE", queue_name) for each in arguments))
    assert (ended.returncode, ended.stdout) == (code, b"")
    assert text in ended.stderr.decode()


def test_progress_bar_is_on_a_terminal_only(queue: str, broker_url: str) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mxworker", "publish", queue, "x", "--count=30", "--rate=30"]
    process = subprocess.Popen(command, env={**environment(broker_url), "TERM": "xterm"}, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(PATIENCE_S) == 0
    assert b"/30" in shown
    assert b"30 messages published" in shown
