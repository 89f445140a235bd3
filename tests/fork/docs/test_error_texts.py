"""docs/error-texts.md has the texts that commands, applications and handlers are answered with, word for word.

The texts that a broker has a part in are in tests/broker/docs/test_error_texts.py, and one is in
tests/broker/consuming/test_depth.py.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from mxworker import Context, Handlers, Settlement
from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.brokers import Brokers, BrokerUrl
from mxworker.config.process import Consumption
from mxworker.errors import ConfigError, ConnectionLost, TlsRefused
from mxworker.master.listener import listen_at
from mxworker.testing import TestWorker
from mxworker.worker.main import failure_at_start
from tests.broker.consuming import test_depth as of_depths
from tests.broker.docs import test_error_texts as of_brokers
from tests.harness.error_texts import ENTRIES, check, names_of
from tests.harness.repository import REPOSITORY
from tests.rabbit.ports import free_port

RUN = ["run", "app:handlers"]
URL = "--broker-url=amqp://me:secret@rabbit/"
COMMANDS = {
    "no broker URL": RUN,
    "has an unescaped / ? or # before its host": [*RUN, "--broker-url=amqp://me:p@ss/word@rabbit/"],
    "does not start with amqp:// or amqps://": [*RUN, "--broker-url=rabbit:5672"],
    "is not a duration": [*RUN, URL, "--drain-timeout=soon"],
    "No such option": [*RUN, URL, "--drain-timout=1m"],
    "there is no setting": ["config", "show", "--config=typo.toml"],
    "everybody on this machine may read": [*RUN, "--broker-url-file=broker-url"],
    "which cannot be read": [*RUN, "--broker-url=amqps://me:secret@rabbit/", "--tls-ca=ca.pem"],
    "everybody on this machine may write to": [*RUN, URL, "--app-dir=shared"],
    "no service called": ["ctl", "reload", "--name=shop"],
}
HANDLERS = "from mxworker import Context, Handlers, Queue\n\nhandlers = Handlers()\n\n\n"
TAKES = "async def order(payload: dict): ...\n"


def app(decorator: str, handler: str = TAKES) -> str:
    return f"{HANDLERS}{decorator}\n{handler}"


ORDERS = '@handlers.consume("orders")'
APPS = {
    "was found but failed to import": "import stripe_of_nobody\n",
    "unexpected keyword argument": app('@handlers.consume("orders", time_out=30)'),
    "it must be a number of seconds": app('@handlers.consume("orders", timeout="30")'),
    "consume needs the name of a queue": app("@handlers.consume"),
    "it must take the payload": app(ORDERS, "async def order(): ...\n"),
    "which nothing can decode": app(ORDERS, "async def order(payload: type): ...\n"),
    "but the payload is the whole body": app(ORDERS, "async def order(order_id: int): ...\n"),
    "has a handler already": app(ORDERS) + f"\n\n{ORDERS}\n{TAKES}",
    "what only computes is a plain 'def'": app('@handlers.consume("orders", cpu=True)'),
    "is a stream": app('@handlers.consume(Queue("orders", type="stream"))'),
    "has no handlers": HANDLERS,
}
NAMES: dict[str, dict[str, Any]] = {
    "there is no module": {"app": "ap:handlers"},
    "has no attribute": {"app": "app:handler"},
    "no handler consumes queue": {"app": "app:handlers", "queues": ["order"]},
}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory that everybody may enter, which those of pytest are not."""
    with TemporaryDirectory(prefix="mx-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "typo.toml").write_text("worker = 4\n")
        (folder / "broker-url").write_text("amqp://me:secret@rabbit/\n")
        (folder / "broker-url").chmod(0o644)
        (folder / "shared").mkdir()
        (folder / "shared").chmod(0o757)
        yield folder


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, str]:
    """What each command and each application is answered with."""
    jobs: dict[str, dict[str, Any]] = {name: {"arguments": arguments} for name, arguments in COMMANDS.items()}
    jobs |= {name: {"source": app(ORDERS), **job} for name, job in NAMES.items()}
    jobs |= {name: {"source": source, "app": "app:handlers"} for name, source in APPS.items()}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MXWORKER_")}
    environment |= {
        "MXWORKER_LOG_FORMAT": "text",
        "MXWORKER_LOG_LEVEL": "error",
        "PYTHONPATH": str(REPOSITORY),
        "XDG_RUNTIME_DIR": str(folder / "run"),
    }
    ended = subprocess.run(
        [sys.executable, "-B", "-m", "tests.fork.docs.told"],  # two applications may have one size, within one second
        input=json.dumps(list(jobs.values())),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(zip(jobs, json.loads(ended.stdout), strict=True))


@pytest.mark.parametrize("name", [*COMMANDS, *NAMES, *APPS])
def test_command_and_application_are_told(name: str, told: dict[str, str], folder: Path) -> None:
    text = told[name].replace(f"mxworker-{os.getuid()}", "mxworker-1000")
    check(name, text, runtime=str(folder / "run"), folder=str(folder))


# ---- the way to a broker, as far as it needs none


async def failure(url: str) -> str:
    """Return what a service says that cannot connect."""
    with pytest.raises((ConnectionLost, TlsRefused)) as failed:
        await BrokerConnection.open(BrokerUrl.parse(url), "test", asyncio.get_running_loop().time() + 10)
    assert isinstance(failed.value, ConnectionLost | TlsRefused)
    return failure_at_start(Consumption(app="app", brokers=Brokers.parse([url])), failed.value, False)


async def test_no_broker() -> None:
    port = free_port()
    check("no broker at", await failure(f"amqp://me:secret@127.0.0.1:{port}/"), port=str(port))


def test_name_in_use(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    listener = listen_at(tmp_path / "shop.sock")
    try:
        with pytest.raises(ConfigError) as refused:
            listen_at(tmp_path / "shop.sock")
    finally:
        listener.close()
    text = f"Error: {refused.value}".replace(str(os.getpid()), "4711")
    check("already runs under this name", text, runtime=str(tmp_path))


# ---- what handlers are told in the log

shop = Handlers()


@shop.consume("orders")
async def order(payload: dict[str, Any]) -> Any:
    return "done"


@shop.consume("mails")
async def mail(payload: dict[str, Any], ctx: Context) -> None:
    ctx.publisher.publish({}, routing_key="sent")


@shop.consume("reports", timeout=30)
async def report(payload: dict[str, Any]) -> None:
    await asyncio.sleep(3600)


@shop.consume("photos")
async def photo(payload: dict[str, Any], ctx: Context) -> None:
    await ctx.publisher.publish(bytes(17 << 20), routing_key="thumbnails")


DELIVERIES = {
    "the body is not JSON": ("orders", b"{"),
    "returned a str": ("orders", b"{}"),
    "was never awaited, so nothing was sent": ("mails", b"{}"),
    "ran out of time": ("reports", b"{}"),
    "MessageTooLarge": ("photos", b"{}"),
}


@pytest.mark.parametrize("name", DELIVERIES)
async def test_handler_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    queue, body = DELIVERIES[name]
    async with TestWorker(shop) as worker:
        advance = 31 if queue == "reports" else None
        await worker.deliver(queue, body, expect=(Settlement, Exception), advance=advance, message_id="7f3a")
    record = next(each for each in caplog.records if each.levelno >= logging.WARNING)
    line = f"{record.levelname:<7} {record.getMessage()}"
    check(name, line.replace(f"{__file__}:{mail.__code__.co_firstlineno + 2}", "/srv/shop/app.py:12"))


# ---- all of them


def test_each_text_of_the_page_is_produced() -> None:
    here = {*COMMANDS, *NAMES, *APPS, *DELIVERIES, "no broker at", "already runs under this name"}
    assert here == set(names_of(__name__))
    assert set(names_of(of_brokers.__name__)) == of_brokers.TEXTS
    assert set(names_of(of_depths.__name__)) == of_depths.TEXTS
    assert set(ENTRIES) == here | of_brokers.TEXTS | of_depths.TEXTS
