"""Reloads under load: the replacement first, broken code never serves, and no message is lost or done twice for it."""

from __future__ import annotations

import random
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from signal import SIGHUP

from mxworker.api.retry_policy import DEFAULT_RETRY
from tests.broker.apps import Recorded
from tests.broker.load import counted_consumers, publishing
from tests.harness import ledger
from tests.harness.saving import save_by_rename
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node

WORKERS = 3
CONCURRENCY = 8
ROLLED_WITHIN_S = 30.0

GOOD = """
    import asyncio
    import os
    import random

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    versions = Ledger(os.environ["LEDGER"] + ".versions")


    @handlers.consume(Queue(os.environ["QUEUE"], type="quorum"), concurrency=int(os.environ["CONCURRENCY"]))
    async def record(message_id: str) -> None:
        versions.start("@VERSION@")
        ledger.start(message_id)
        await asyncio.sleep(random.uniform(0, 0.02))
        ledger.finish(message_id)
"""
MISSING_EXCHANGE = """
    @handlers.consume(Queue(os.environ["QUEUE"] + ".beside", bind=[("nowhere", "all")]))
    async def other(message_id: str) -> None:
        pass
"""
LAST_LINE = len(GOOD.strip().splitlines()) + 1

BROKEN = (
    (f"{GOOD}    def broken(:\n", f"app.py:{LAST_LINE}  def broken(:    SyntaxError"),
    (f"{GOOD}    import module_of_nobody\n", f"app.py:{LAST_LINE}  import module_of_nobody    ModuleNotFoundError"),
    (f"{GOOD}    raise RuntimeError('no')\n", f"app.py:{LAST_LINE}  raise RuntimeError('no')    RuntimeError: no"),
    (GOOD.replace('"quorum"', '"classic"'), "406 PRECONDITION_FAILED"),
    (f"{GOOD}{MISSING_EXCHANGE}", "404 NOT_FOUND, no exchange 'nowhere'"),
)
"""Code that cannot start, and what the log must say of it."""


class Shop:
    """A service whose code changes, under load."""

    def __init__(self, service: Service, recorded: Recorded, client: Client, counts: list[int]) -> None:
        self.killed: set[int] = set()
        self.rolled_at_ns: dict[str, int] = {}
        """When all workers had a version's code."""
        self._service = service
        self._recorded = recorded
        self._client = client
        self._counts = counts
        self._version = "good-0"
        self._reloads = 0

    def change(self, kill: random.Random | None) -> None:
        """Reload good code, and with `kill` kill a worker at some moment of the roll or right after it."""
        counted = self._next_count()
        self._version = f"good-{self._reloads + 1}"
        write(self._recorded.folder, GOOD, self._version)
        self._reload()
        if kill is not None:
            time.sleep(kill.uniform(0, 0.3))  # the moment is random, nothing is waited for
            self.killed.add(self._service.kill_worker(kill).pid)
        self._service.wait_for_event("reload_finished", ROLLED_WITHIN_S, generation=self._reloads + 1)
        self.rolled_at_ns[self._version] = time.monotonic_ns()
        wait_until(lambda: self._version in versions(self._recorded), 10, f"work by {self._version}")
        wait_until(self._all_consume, ROLLED_WITHIN_S, f"{WORKERS} consumers")
        self._check_counts(counted, WORKERS if kill is None else WORKERS - 1)

    def refuse(self, source: str, why: str) -> None:
        """Reload code that cannot start, and then have on the disk again what serves."""
        counted, logged = self._next_count(), len(self._service.log_text())
        write(self._recorded.folder, source, f"bad-{self._reloads + 1}")
        self._reload()
        self._service.wait_for_event("reload_refused", ROLLED_WITHIN_S, generation=self._reloads + 1)
        wait_until(lambda: why in self._service.log_text()[logged:], ROLLED_WITHIN_S, why)
        write(self._recorded.folder, GOOD, self._version)
        self._check_counts(counted, WORKERS)

    def _reload(self) -> None:
        self._reloads += 1
        self._service.signal(SIGHUP)

    def _all_consume(self) -> bool:
        counts = self._client.counts(self._recorded.queue)
        return counts.consumers == WORKERS == len(self._service.workers())

    def _next_count(self) -> int:
        """Return the number of the next count, once the one that is under way has ended."""
        counted = len(self._counts)
        wait_until(lambda: len(self._counts) > counted, 10, "a count of the consumers")
        return len(self._counts)

    def _check_counts(self, counted: int, least: int) -> None:
        wait_until(lambda: len(self._counts) > counted, 10, "a count of the consumers")
        assert min(self._counts[counted:]) >= least, self._counts[counted:]


def write(folder: Path, source: str, version: str) -> None:
    """Have another version on the disk from one moment to the next."""
    save_by_rename(folder / "app.py", textwrap.dedent(source).lstrip().replace("@VERSION@", version))


def test_reloads_under_load_keep_all_consuming_and_broken_code_never_serves(
    node: Node, queue_name: str, tmp_path: Path, rng: random.Random, scale: Callable[[int, int], int]
) -> None:
    reloads, broken = scale(20, 100), scale(6, 30)
    plan = [BROKEN[number % len(BROKEN)] if number < broken else None for number in range(reloads)]
    rng.shuffle(plan)
    recorded = Recorded(node.url, tmp_path, queue_name)
    recorded.declare()
    write(tmp_path, GOOD, "good-0")
    # No bytecode: two versions of one size within a second would look the same to the import system.
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    with (
        node.expect_precondition_failed(),
        recorded.service(f"--workers={WORKERS}", concurrency=CONCURRENCY, source=None, env=env) as service,
        Client(node.url) as client,
    ):
        service.wait_ready()
        with publishing(node.url, recorded, 20, 0.05), counted_consumers(node.url, queue_name) as counts:
            shop = Shop(service, recorded, client, counts)
            for broken_kind in plan:
                if broken_kind is None:
                    shop.change(rng.choice([rng, None]))
                else:
                    shop.refuse(*broken_kind)
        wait_until(lambda: recorded.finished_ids == set(recorded.ids), 60, "every id")
        recorded.wait_until_settled(node)
        service.stop()
        assert service.exit_code == 0
        for name in ("", ".dlq", *(f".retry.{step_ms}" for step_ms in DEFAULT_RETRY.steps_ms)):
            client.delete(f"{queue_name}.beside{name}")
    report = recorded.judge()
    print(f"{reloads} reloads, {len(shop.killed)} kills: {report}")
    assert report.nothing_lost, report
    assert not report.in_queue, report
    assert not repeated_without_a_kill(recorded.records, shop.killed), report
    assert not {version for version in versions(recorded) if version.startswith("bad")}
    assert not outdated(recorded, shop.rolled_at_ns)


def versions(recorded: Recorded) -> list[str]:
    """Return the version of the code that handled each message."""
    return [record.id for record in _handled(recorded)]


def outdated(recorded: Recorded, rolled_at_ns: dict[str, int]) -> list[str]:
    """Return the versions that handled a message after all workers had a newer one."""
    order = list(rolled_at_ns)
    found = []
    for record in _handled(recorded):
        newer = order[order.index(record.id) + 1 :] if record.id in order else order
        if newer and record.at_ns > rolled_at_ns[newer[0]]:
            found.append(record.id)
    return found


def repeated_without_a_kill(records: Iterable[ledger.Record], killed: set[int]) -> dict[str, list[int]]:
    """Return the messages that were started again although nobody killed the worker that had them: id -> its pids."""
    starts: defaultdict[str, list[int]] = defaultdict(list)
    for record in records:
        if record.event is ledger.START:
            starts[record.id].append(record.pid)
    return {id_: pids for id_, pids in starts.items() if not killed.issuperset(pids[:-1])}


def _handled(recorded: Recorded) -> list[ledger.Record]:
    return ledger.read(f"{recorded.path}.versions")
