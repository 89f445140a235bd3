"""A line that the application logs in a handler names the message, in a real service, whatever the kind of handler."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.raw import raw_properties

PATIENCE_S = 60.0

APP = """
    import logging
    import os

    from mxworker import Handlers, Reject

    handlers = Handlers()
    queue = os.environ["QUEUE"]
    log = logging.getLogger("shop")


    @handlers.consume(queue + ".async")
    async def in_the_loop(body: bytes) -> None:
        log.info("seen")


    @handlers.consume(queue + ".def")
    def in_a_thread(body: bytes) -> None:
        log.info("seen")


    @handlers.consume(queue + ".cpu", cpu=True)
    def in_a_process(body: bytes) -> None:
        log.info("seen")


    @handlers.consume_batch(queue + ".batch", size=2, wait=30)
    async def together(bodies: list[bytes]) -> None:
        log.info("seen")
"""
KINDS = {"async": "in_the_loop", "def": "in_a_thread", "cpu": "in_a_process", "batch": "together"}


@pytest.fixture
def queues(queue_name: str, admin: Client) -> Iterator[str]:
    yield queue_name
    for kind in KINDS:
        for beside in ("", ".dlq"):
            admin.delete(f"{queue_name}.{kind}{beside}")


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_line_of_each_kind_of_handler_names_its_message(
    log_format: str, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    command = mxworker_run(write_app(tmp_path, APP), "--workers=1", f"--log-format={log_format}", app_dir=tmp_path)
    with Service(command, tmp_path, env={"MXWORKER_BROKER_URL": broker_url, "QUEUE": queues}) as service:
        if log_format == "json":
            service.wait_ready()
        else:
            service.wait_for_log("Ready in")
        for kind in KINDS:
            for number in range(2):
                raw = raw_properties(message_id=f"{kind}-{number}".encode(), correlation_id=b"c-7")
                admin.publish_raw(f"{queues}.{kind}", b"", raw)
        wait_until(lambda: service.log_text().count("seen") == 7, PATIENCE_S, "the lines")
        for kind, handler in KINDS.items():
            ids = [f"{kind}-0", f"{kind}-1"]
            queue = f"{queues}.{kind}"
            if log_format == "text":
                common = f"  seen  [queue={queue} handler={handler}"
                shown = [f"{common} message_id={each} correlation_id=c-7 attempt=1 worker=1]\n" for each in ids]
                if kind == "batch":
                    shown = [f'{common} messages=2 message_ids="{",".join(ids)}" worker=1]\n']
                assert all(line in service.log_text() for line in shown), service.log_text()
                continue
            lines = [line for line in service.log_records() if line["message"] == "seen" and line["queue"] == queue]
            assert all(line["handler"] == handler and line["worker"] == 1 for line in lines)
            if kind == "batch":
                assert [(line["messages"], line["message_ids"]) for line in lines] == [(2, ids)]
            else:
                assert sorted(line["message_id"] for line in lines) == ids
                assert all(line["correlation_id"] == "c-7" and line["attempt"] == 1 for line in lines)
