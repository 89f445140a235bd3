"""`mxworker check --connect` finds what differs at the broker, nothing where nothing differs, and changes nothing.

One run of the command is asked about all kinds of drift, each at a queue of its own, and one about the same queues as
they should be.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mxworker import Queue
from mxworker.amqp.connecting.connection import BrokerConnection
from mxworker.amqp.consuming import topology
from mxworker.amqp.consuming.declaring import Declaring
from mxworker.api.topology import declarations
from mxworker.brokers import BrokerUrl
from tests.harness.hostile_text import assert_harmless
from tests.harness.repository import REPOSITORY
from tests.harness.scales import FULL_ONLY
from tests.harness.service import write_app
from tests.rabbit.client import Client
from tests.rabbit.node import Node

PATIENCE_S = 120.0
LIMIT = 2**31 - 1
STEP_MS = 1000


@dataclass(frozen=True)
class Drift:
    """A queue that is not as the code says. NAME in texts stands for its name."""

    finding: str
    said: str
    options: dict[str, Any] = field(default_factory=dict)
    """What the code says beside the name."""
    has: dict[str, Any] = field(default_factory=dict)
    """What the broker has in place of the code's arguments; None for an argument that it has not."""
    flags: dict[str, bool] = field(default_factory=dict)
    beside: str = ""
    """The end of the name of the queue that differs."""
    mend: str = ""
    is_warning: bool = False
    since_4: bool = False
    """Whether it is none on RabbitMQ 3."""


CLASSIC = {"type": "classic"}
TO_NOBODY = {"dead_letter": False}
DRIFTS = {
    "type": Drift(
        "queue-differs",
        "x-queue-type is 'classic' at the broker and 'quorum' in the code",
        has={"x-queue-type": "classic", "x-delivery-limit": None, "x-dead-letter-strategy": None},
        mend='Or change the code:  Queue("NAME", type="classic")',
    ),
    "durable": Drift(
        "queue-differs",
        "durable is 'false' at the broker and 'true' in the code",
        CLASSIC,
        flags={"durable": False},
        mend='Take the queue as it is:  Queue("NAME", type="classic", declare="passive")',
    ),
    "auto-delete": Drift(
        "queue-differs", "auto_delete is 'true' at the broker and 'false'", CLASSIC, flags={"auto_delete": True}
    ),
    "max-length": Drift(
        "queue-differs",
        "x-max-length is '500' at the broker and '1000' in the code",
        {"arguments": {"x-max-length": 1000}},
        has={"x-max-length": 500},
        mend='Or change the code:  Queue("NAME", arguments={"x-max-length": 500})',
    ),
    "message-ttl": Drift(
        "queue-differs", "x-message-ttl is '60000' at the broker and none in the code", has={"x-message-ttl": 60000}
    ),
    "overflow": Drift(
        "queue-differs", "x-overflow is 'drop-head' at the broker and 'reject-publish'", has={"x-overflow": "drop-head"}
    ),
    "dead-letter-exchange": Drift(
        "queue-differs",
        "x-dead-letter-exchange is 'shop.dead' at the broker and '' in the code",
        has={"x-dead-letter-exchange": "shop.dead"},
        mend='arguments={"x-dead-letter-exchange": "shop.dead"})',
    ),
    "dead-letter-key": Drift(
        "queue-differs",
        "x-dead-letter-routing-key is 'elsewhere' at the broker and 'NAME.dlq' in the code",
        has={"x-dead-letter-routing-key": "elsewhere"},
    ),
    "dead-letter-strategy": Drift(
        "queue-differs",
        "x-dead-letter-strategy is none at the broker and 'at-least-once' in the code",
        has={"x-dead-letter-strategy": None},
    ),
    "delivery-limit": Drift(
        "queue-differs",
        f"x-delivery-limit is '5' at the broker and '{LIMIT}' in the code",
        has={"x-delivery-limit": 5},
    ),
    "max-priority": Drift(
        "queue-differs",
        "x-max-priority is '9' at the broker and '5' in the code",
        {**CLASSIC, "max_priority": 5},
        has={"x-max-priority": 9},
    ),
    "single-active": Drift(
        "queue-differs",
        "x-single-active-consumer is none at the broker and 'true' in the code",
        {"single_active_consumer": True},
        has={"x-single-active-consumer": None},
    ),
    "two-at-once": Drift(
        "queue-differs",
        "is none at the broker",
        has={"x-overflow": None, "x-delivery-limit": None},
    ),
    "retry-delay": Drift(
        "queue-differs",
        "x-message-ttl is '7000' at the broker and '1000' in the code",
        has={"x-message-ttl": 7000},
        beside=f".retry.{STEP_MS}",
        mend="mxworker chooses the arguments of this queue. When it is empty, delete it:  rabbitmqctl delete_queue",
    ),
    "retry-target": Drift(
        "queue-differs",
        "x-dead-letter-routing-key is 'orders' at the broker and 'NAME' in the code",
        has={"x-dead-letter-routing-key": "orders"},
        beside=f".retry.{STEP_MS}",
    ),
    "dead-letter-queue": Drift(
        "queue-differs",
        "x-queue-type is 'classic' at the broker",
        has={"x-queue-type": "classic", "x-delivery-limit": None},
        beside=".dlq",
    ),
    "retry-of-passive": Drift(
        "queue-differs",
        "x-message-ttl is none at the broker and '1000' in the code",
        {"declare": "passive", "arguments": {"x-delivery-limit": LIMIT}},
        has={"x-message-ttl": None},
        beside=f".retry.{STEP_MS}",
    ),
    "stream": Drift("queue-is-stream", "a stream", {"declare": "passive", **TO_NOBODY}, has={"x-queue-type": "stream"}),
    "transient": Drift(
        "queue-transient",
        "is not durable",
        {"declare": "passive", **CLASSIC, **TO_NOBODY},
        flags={"durable": False},
        is_warning=True,
    ),
    "limit-of-others": Drift(
        "delivery-limit-unknown",
        "is not declared by mxworker",
        {"declare": "off", **TO_NOBODY},
        has={"x-delivery-limit": None},
        is_warning=True,
        since_4=True,
    ),
}
MISSING = {
    "missing-queue": (
        "queue-missing",
        "does not exist",
        'Or let mxworker declare it:  Queue("NAME", dead_letter=False)',
    ),
    "missing-exchange": ("exchange-missing", "does not exist, and queue 'NAME' is bound to it", "Create the exchange"),
    "exchange-type": ("binding-pattern", "only a topic exchange understands", "Make it a topic exchange"),
}
MISSING_OPTIONS: dict[str, dict[str, Any]] = {
    "missing-queue": {"declare": "passive", **TO_NOBODY},
    "missing-exchange": {},
    "exchange-type": {},
}


def options_of(kind: str, prefix: str) -> dict[str, Any]:
    """Return what the code says of the queue of a kind of drift."""
    if kind in DRIFTS:
        return DRIFTS[kind].options
    bound = {"missing-exchange": f"{prefix}.nowhere", "exchange-type": f"{prefix}.direct"}
    return {**MISSING_OPTIONS[kind], **({"bind": [(bound[kind], "orders.*")]} if kind in bound else {})}


def app_of(prefix: str) -> str:
    """Return an application that consumes one queue for each kind of drift."""
    lines = ["from mxworker import Handlers, Queue, RetryPolicy", "print('printed by the application')"]
    lines.append("handlers = Handlers()")
    for kind in [*DRIFTS, *MISSING]:
        said = ", ".join(f"{name}={value!r}" for name, value in options_of(kind, prefix).items())
        retry = f"RetryPolicy(delays=({STEP_MS / 1000},))" if kind.startswith("retry") else "None"
        lines += [
            f"@handlers.consume(Queue('{prefix}.{kind}', {said}), retry={retry})",
            f"async def {kind.replace('-', '_')}(payload: dict) -> None: ...",
        ]
    return "\n".join(lines)


@dataclass(frozen=True)
class Checked:
    """What one run of the command has found."""

    prefix: str
    code: int
    document: dict[str, Any]
    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    """All that the broker had of the test before and after the run."""

    def findings(self, subject: str) -> list[dict[str, Any]]:
        return [each for each in self.document["findings"] if each["subject"] == subject]

    @property
    def refusals(self) -> int:
        """How many 406s the broker has logged."""
        queues = self.document["topology"]["queues"]
        asked = [each for each in queues if each["broker"]["may_declare"]]
        differences = sum(len(each["broker"]["differences"]) for each in asked)
        stoppers = sum(not each["broker"]["exists"] or not each["broker"]["compared"] for each in asked)
        consumed = sum(each["role"] == "work" and each["broker"]["exists"] for each in queues)
        return differences + stoppers + consumed


def run(url: str, directory: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    ended = subprocess.run(
        [sys.executable, "-m", "mxworker", "check", *arguments],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "MXWORKER_BROKER_URL": url},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert_harmless(ended.stderr.decode())
    return ended


def inventory(node: Node, prefix: str) -> frozenset[str]:
    """Return all queues, exchanges and bindings of the test, with all their properties."""
    everything = node.ctl(
        "eval",
        'V = <<"/">>, '
        '[io:format("~0p~n", [I]) || I <- rabbit_amqqueue:info_all(V, '
        "[name, durable, auto_delete, exclusive, arguments, policy, consumers])], "
        '[io:format("~0p~n", [I]) || I <- rabbit_exchange:info_all(V)], '
        '[io:format("~0p~n", [I]) || I <- rabbit_binding:info_all(V)], ok.',
    )
    return frozenset(line for line in everything.splitlines() if prefix in line or "mxworker-check" in line)


def check(node: Node, prefix: str, directory: Path, *flags: str) -> Checked:
    """Run the command on the application."""
    app = write_app(directory, app_of(prefix))
    found: list[Checked] = []
    with node.expect_precondition_failed(lambda: found[0].refusals):
        ended = run(node.url, directory, app, "--connect", "--json", *flags)
        assert b"printed by the application" in ended.stderr
        found.append(Checked(prefix, ended.returncode, json.loads(ended.stdout)))
    return found[0]


def declare_drifted(admin: Client, prefix: str) -> None:
    for kind, drift in DRIFTS.items():
        queue = Queue(f"{prefix}.{kind}", **{**drift.options, "declare": "ensure"})
        steps_ms = (STEP_MS,) if kind.startswith("retry") else ()
        if kind == "retry-of-passive":
            admin.declare(queue.name, arguments={"x-queue-type": "classic"})
        wanted = {each.name: dict(each.arguments) for each in declarations(queue, steps_ms)}
        name = f"{queue.name}{drift.beside}"
        if drift.has.get("x-queue-type") == "stream":
            admin.declare(name, arguments={"x-queue-type": "stream"})
            continue
        arguments = {**wanted[name], **drift.has}
        admin.declare(
            name, arguments={key: value for key, value in arguments.items() if value is not None}, **drift.flags
        )
    admin.declare_exchange(f"{prefix}.direct", "direct")


def clean(admin: Client, prefix: str) -> None:
    for kind in [*DRIFTS, *MISSING]:
        for beside in ("", ".dlq", ".quarantine", f".retry.{STEP_MS}"):
            admin.delete(f"{prefix}.{kind}{beside}")
    admin.delete_exchange(f"{prefix}.direct")


@pytest.fixture(scope="module")
def drifted(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checked]:
    """The report about queues that all differ from the code."""
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    with Client(node.url) as admin:
        try:
            declare_drifted(admin, prefix)
            before = inventory(node, prefix)
            checked = check(node, prefix, tmp_path_factory.mktemp("drifted"))
            yield replace(checked, before=before, after=inventory(node, prefix))
        finally:
            clean(admin, prefix)


@pytest.mark.parametrize("kind", DRIFTS)
def test_drift_is_found_with_both_sides_and_its_mend(drifted: Checked, kind: str) -> None:
    drift = DRIFTS[kind]
    if drift.since_4 and " 3." in drifted.document["broker"]["server"]:
        pytest.skip("RabbitMQ 3 keeps what is given back")
    name = f"{drifted.prefix}.{kind}"
    found = next(each for each in drifted.findings(f"queue '{name}{drift.beside}'") if each["name"] == drift.finding)
    assert found["level"] == ("warning" if drift.is_warning else "error")
    assert drift.said.replace("NAME", name) in found["text"]
    assert drift.mend.replace("NAME", name) in "\n".join(found["remedy"])


@pytest.mark.parametrize("kind", MISSING)
def test_what_is_missing_is_found(drifted: Checked, kind: str) -> None:
    expected, said, mend = MISSING[kind]
    name = f"{drifted.prefix}.{kind}"
    found = next(each for each in drifted.document["findings"] if each["name"] == expected)
    assert said.replace("NAME", name) in found["text"]
    assert mend.replace("NAME", name) in "\n".join(found["remedy"])


def test_no_queue_is_blamed_that_does_not_differ(drifted: Checked) -> None:
    queues = {f"queue '{drifted.prefix}.{kind}{drift.beside}'" for kind, drift in DRIFTS.items()}
    blamed = {each["subject"] for each in drifted.document["findings"] if each["subject"].startswith("queue ")}
    assert blamed == {*queues, f"queue '{drifted.prefix}.missing-queue'"}
    assert drifted.code == drifted.document["exit_code"] == 4


def test_check_changes_nothing(drifted: Checked) -> None:
    assert drifted.before == drifted.after
    assert len(drifted.before) > len(DRIFTS)


@pytest.fixture
def right(node: Node) -> Iterator[str]:
    """The beginning of the names of queues that are all as the code says."""
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    with Client(node.url) as admin:
        for exchange in ("nowhere", "direct"):
            admin.declare_exchange(f"{prefix}.{exchange}", "topic")
        asyncio.run(_declare_all(node.url, prefix))
        yield prefix
        clean(admin, prefix)
        admin.delete_exchange(f"{prefix}.nowhere")


async def _declare_all(url: str, prefix: str) -> None:
    connection = await BrokerConnection.open(BrokerUrl.parse(url), "test", asyncio.get_running_loop().time() + 30)
    for kind in [*DRIFTS, *MISSING]:
        queue = Queue(f"{prefix}.{kind}", **{**options_of(kind, prefix), "declare": "ensure"})
        async with Declaring(connection) as declaring:
            await topology.ensure(declaring, queue, (STEP_MS,) if kind.startswith("retry") else ())
    await connection.close()


def test_right_topology_has_no_finding(node: Node, right: str, tmp_path: Path) -> None:
    checked = check(node, right, tmp_path, "--ignore=no-dead-letter-target", "--ignore=priority-prefetch", "--strict")
    assert checked.document["findings"] == []
    assert (checked.code, checked.document["fit"]) == (0, True)
    states = {each["state"] for each in checked.document["topology"]["queues"]}
    assert states == {"exists, as it should be", "is declared when it is needed"}


@FULL_ONLY
def test_rights_that_are_missing_are_found(node: Node, queue_name: str, admin: Client, tmp_path: Path) -> None:
    app = write_app(
        tmp_path,
        f"""
        from mxworker import Handlers

        handlers = Handlers()


        @handlers.consume("{queue_name}", retry=None)
        async def order(payload: dict) -> None: ...
        """,
    )
    node.ctl("add_user", queue_name, "secret")
    node.ctl("set_permissions", queue_name, "^$", "^$", "^$")
    try:
        ended = run(node.url.replace("guest:guest", f"{queue_name}:secret"), tmp_path, app, "--connect", "--json")
    finally:
        node.ctl("delete_user", queue_name)
    names = {each["name"] for each in json.loads(ended.stdout)["findings"]}
    assert names == {"may-not-declare", "may-not-consume", "may-not-publish"}
    assert ended.returncode == 4
