"""A wire that falls silent in one direction, without an error: it is noticed, nothing is lost, work goes on.

Two things notice it, the timer of the data plane and TCP_USER_TIMEOUT; each alone does it in time, neither does not.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.broker.publishers import LISTED, Reported
from tests.harness import ledger
from tests.harness.cable import Cable, missing_rights
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node
from tests.rabbit.ports import free_port

HEARTBEAT_S = 2
NOTICED_WITHIN_S = 2 * HEARTBEAT_S + 2
BACK_WITHIN_S = 10
TIMEOUT_S = 5.0  # of a publish
SLACK_S = 10.0
WORKERS = 2
CONNECTIONS = 2 * WORKERS  # each consumes on one and publishes on the other

RELAY = """
    import asyncio
    import itertools
    import os
    import random
    import time

    from mxworker import Context, Handlers, Queue
    from mxworker.errors import PublishError
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    outcomes = os.open(os.environ["OUTCOMES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    numbers = itertools.count()


    @handlers.consume(Queue("work", dead_letter=False), concurrency=8)
    async def relay(body: str, ctx: Context) -> None:
        ledger.start(body)
        await asyncio.sleep(random.uniform(0, 0.1))
        copy = f"{body}.{os.getpid()}.{next(numbers)}"  # another one at each delivery: each publish is judged alone
        began_at = time.monotonic()
        try:
            await ctx.publisher.publish(copy, routing_key="copies")
            outcome = "Confirmed"
        except PublishError as error:
            outcome = type(error).__name__
        os.write(outcomes, f"{copy} {outcome} {began_at} {time.monotonic()}\\n".encode())
        ledger.finish(body)
"""


@pytest.fixture
def cable() -> Iterator[Cable]:
    """A cable to another namespace; where none can be made the test is skipped with a warning, and fails in a CI."""
    missing = missing_rights()
    if missing is not None and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing is not None:
        warnings.warn(pytest.PytestWarning(f"the tests of silent networks were NOT run: {missing}"), stacklevel=1)
        pytest.skip(missing)
    with Cable() as made:
        yield made


class Relay:
    """A service at the other end of a cable, which copies each message of the queue `work` to the queue `copies`."""

    def __init__(self, cable: Cable, port: int, folder: Path) -> None:
        self._ledger = folder / "ledger"
        self._outcomes = folder / "outcomes"
        app = write_app(folder, RELAY)
        env = {
            "MXWORKER_BROKER_URL": f"amqp://guest:guest@{cable.here}:{port}/?heartbeat={HEARTBEAT_S}",
            "LEDGER": str(self._ledger),
            "OUTCOMES": str(self._outcomes),
        }
        command = mxworker_run(app, f"--workers={WORKERS}", "--log-level=debug", app_dir=folder)
        self.service = Service(cable.command_there(command), folder, env=env)

    @property
    def is_at_rest(self) -> bool:
        """Whether every handler that has started has finished."""
        records = ledger.read(self._ledger)
        return 2 * sum(record.event is ledger.START for record in records) == len(records)

    @property
    def handled(self) -> set[str]:
        """The messages whose handler has finished."""
        return {record.id for record in ledger.read(self._ledger) if record.event is ledger.FINISH}

    @property
    def losses(self) -> int:
        """How many connections were lost so far."""
        return self.service.log_text().count("lost the connection")

    def reported(self) -> Reported:
        """Return the outcome of every publish so far."""
        reported = Reported()
        for copy, outcome, began_at, ended_at in self._lines():
            group = {"Confirmed": reported.confirmed, "PublishUnconfirmed": reported.unknown}
            group.get(outcome, reported.refused).add(copy)
            reported.kinds[outcome] += 1
            reported.slowest_s = max(reported.slowest_s, float(ended_at) - float(began_at))
        return reported

    def confirmed_after(self, instant: float) -> int:
        """Count the publishes begun after a monotonic instant, and confirmed: their messages came after it, too."""
        return sum(outcome == "Confirmed" and float(began_at) > instant for _, outcome, began_at, _ in self._lines())

    def _lines(self) -> list[list[str]]:
        text = self._outcomes.read_text() if self._outcomes.exists() else ""
        return [line.split() for line in text.splitlines()]


@pytest.mark.parametrize("silent", ["from the broker", "to the broker"])
def test_silent_direction_is_noticed_and_healed(
    cable: Cable, own_node: Callable[..., Node], tmp_path: Path, seed: int, silent: str
) -> None:
    messages = 3_000
    port = free_port()
    node = own_node(config=f"listeners.tcp.2 = {cable.here}:{port}\nloopback_users = none")
    relay = Relay(cable, port, tmp_path)
    with relay.service as service, Client(node.url) as client:
        service.wait_ready()
        client.declare_quorum("copies")
        client.publish("work", (b"%d" % number for number in range(messages)))
        wait_until(lambda: len(relay.handled) > 100, 30, "some work")
        assert relay.losses == 0
        silent_at = time.monotonic()
        if silent == "from the broker":
            cable.silence_from_here()
        else:
            cable.silence_from_there()
        wait_until(lambda: relay.losses == CONNECTIONS, NOTICED_WITHIN_S, f"{CONNECTIONS} connections to be lost")
        noticed_s = time.monotonic() - silent_at
        wait_until(lambda: relay.is_at_rest, TIMEOUT_S + SLACK_S, "an outcome of every publish")
        cable.heal()
        healed_at = time.monotonic()
        wait_until(lambda: relay.confirmed_after(healed_at), BACK_WITHIN_S, "a message handled and its copy confirmed")
        back_s = time.monotonic() - healed_at
        everything = {str(number) for number in range(messages)}
        wait_until(lambda: relay.handled == everything, 60, "every message")
        service.stop()
        assert service.exit_code == 0
        copies = [message.body.decode() for message in client.drain("copies")]
        assert client.get("work") is None
    reported = relay.reported()
    figures = reported.check(copies)
    print(f"seed {seed}, silent {silent}: noticed after {noticed_s:.1f} s, back after {back_s:.1f} s; {figures}")
    assert reported.kinds.keys() <= {"Confirmed", *(kind.__name__ for kind in LISTED)}
    assert reported.unknown, "publishes were in flight when the wire fell silent"
    assert reported.slowest_s < TIMEOUT_S + SLACK_S
