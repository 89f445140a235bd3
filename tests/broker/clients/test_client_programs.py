"""Simple programs of other clients, written for RabbitMQ, do the same on the embedded broker."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mxworker.devbroker.process import BrokerProcess
from tests.broker.clients.conftest import go_environment, install, missing
from tests.harness.scales import FULL_ONLY
from tests.rabbit.node import Node

PROGRAMS = Path(__file__).parent / "programs"
TRANSACTIONS = "transactions: [0, 0, 0, 2]"
EXPECTED = [
    "declared: 0 messages, 0 consumers",
    "confirmed: 100",
    "consumed: 100, 1 redelivered",
    "got: 300000 bytes, then nothing",
    "returned: 312 NO_ROUTE",
    "cancelled: 0 delivered, 1 ready",
    TRANSACTIONS,
    "dead letter: rejected 1 times from source",
    "refused: 404 NOT_FOUND - no queue 'nobody-has-this-queue' in vhost '/'",
    "closed",
]
TIMEOUT_S = 300

Program = Callable[[str], list[str]]


@pytest.fixture(params=["pika", "kombu", "amqp091", "amqplib"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Program:
    """Run the program of a client with a URL, and return what it says."""
    match request.param:
        case "amqp091":
            command, env = _in_go(tmp_path)
        case "amqplib":
            command, env = _in_node(tmp_path)
        case client:
            command, env = [request.getfixturevalue("python"), PROGRAMS / f"with_{client}.py"], {}

    def run(url: str) -> list[str]:
        done = subprocess.run(
            [*map(str, command), url],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout.splitlines()

    return run


def _in_go(folder: Path) -> tuple[Sequence[object], dict[str, str]]:
    env = go_environment("github.com/rabbitmq/amqp091-go")
    return ["go", "run", PROGRAMS / "with_amqp091.go"], {**env, "GOCACHE": str(folder / "cache")}


def _in_node(folder: Path) -> tuple[Sequence[object], dict[str, str]]:
    if not shutil.which("npm"):
        missing("Node.js or its npm is missing: 'make clients' installs both")
    (folder / "package.json").write_text("{}")
    install(["npm", "install", "--no-audit", "--no-fund", "amqplib@2"], folder)
    shutil.copy(PROGRAMS / "with_amqplib.mjs", folder)
    return ["node", folder / "with_amqplib.mjs"], {}


@FULL_ONLY
def test_program_of_another_client_says_the_same(
    program: Program, node: Node, embedded: BrokerProcess, request: pytest.FixtureRequest
) -> None:
    expected = [line for line in EXPECTED if line != TRANSACTIONS or "amqplib" not in request.node.name]
    assert program(node.url) == expected
    assert program(embedded.url) == expected
