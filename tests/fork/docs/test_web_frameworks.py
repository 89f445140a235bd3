"""The code for FastAPI and Django in docs/how-to/fastapi.md and django.md, with stand-ins for what it uses of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mxworker.devbroker.process import BrokerProcess, start_broker
from mxworker.testing import TestWorker
from tests.fork.docs.python_blocks import URL
from tests.harness.pages import TESTED_BY, blocks
from tests.harness.repository import REPOSITORY
from tests.rabbit.client import Client

HOW_TO = REPOSITORY / "docs" / "how-to"


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with start_broker() as started:
        yield started


@pytest.fixture
def client(broker: BrokerProcess) -> Iterator[Client]:
    with Client(broker.url) as client:
        client.declare("orders")
        yield client
        client.delete("orders")


@contextmanager
def stand_in(**modules: dict[str, Any]) -> Iterator[None]:
    """Let modules of these names, `_` for a dot, have these attributes."""
    made = {name.replace("_", "."): ModuleType(name) for name in modules}
    for module, attributes in zip(made.values(), modules.values(), strict=True):
        vars(module).update(attributes)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module


def programs(page: Path, url: str) -> list[str]:
    found = [block for block in blocks(page) if block.language == "python" and TESTED_BY in block.marks]
    return [URL.sub(url, block.text) for block in found]


class FastAPI:
    """As much of FastAPI as the page uses."""

    def __init__(self, lifespan: Any) -> None:
        self.state = SimpleNamespace()
        self.lifespan = lifespan
        self.routes: dict[str, Any] = {}

    def post(self, path: str, status_code: int) -> Any:
        return lambda function: self.routes.setdefault(path, function)


class HTTPException(Exception):
    def __init__(self, status_code: int, detail: str) -> None:
        super().__init__(status_code, detail)


async def test_fastapi_answers_when_the_message_is_confirmed(broker: BrokerProcess, client: Client) -> None:
    names: dict[str, Any] = {}
    (program,) = programs(HOW_TO / "fastapi.md", broker.url)
    with stand_in(fastapi={"FastAPI": FastAPI, "HTTPException": HTTPException, "Request": object}):
        exec(program, names)
    app = names["app"]
    async with app.lifespan(app):
        request = SimpleNamespace(app=app)
        assert await app.routes["/orders"]({"id": "o1"}, request) == {"id": "o1"}
        assert client.counts("orders").messages == 1
        client.delete("orders")
        with pytest.raises(HTTPException) as refused:
            await app.routes["/orders"]({"id": "o2"}, request)
    assert refused.value.args[0] == 503


def test_django_publishes_from_a_thread_and_its_process_ends(
    broker: BrokerProcess, client: Client, tmp_path: Path
) -> None:
    program, _ = programs(HOW_TO / "django.md", broker.url)
    write(tmp_path / "django" / "conf.py", f"class settings:\n    MXWORKER_BROKER_URL = {broker.url!r}\n")
    write(tmp_path / "shop" / "queue.py", program)
    view = "from shop.queue import publish\nfor number in (1, 2): publish({'id': number}, 'orders')"
    ran = subprocess.run([sys.executable, "-c", view], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [json.loads(received.body)["id"] for received in client.drain("orders")] == [1, 2]


def write(path: Path, source: str) -> None:
    path.parent.mkdir()
    path.write_text(source)


async def test_django_has_its_connections_looked_after_around_each_message() -> None:
    done: list[Any] = []
    orders = SimpleNamespace(filter=lambda **which: SimpleNamespace(update=lambda **to: done.append((which, to))))
    names: dict[str, Any] = {"__name__": "shop.handlers"}
    _, program = programs(HOW_TO / "django.md", "")
    with stand_in(
        django={"setup": lambda: done.append("set up")},
        django_db={"close_old_connections": lambda: done.append("closed")},
        shop={},
        shop_models={"Order": SimpleNamespace(objects=orders)},
    ):
        exec(program, names)
    async with TestWorker(names["handlers"]) as worker:
        await worker.deliver("orders", {"id": 7})
    assert done == ["set up", "closed", ({"pk": 7, "state": "new"}, {"state": "paid"}), "closed"]
