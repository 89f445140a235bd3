"""A handler at work in the test's event loop, without a broker: deliveries go in by hand, settlements are looked at."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mxworker import Delivery, Handlers
from mxworker.api.compilation import Handler
from mxworker.api.context import WorkerResources
from mxworker.api.handlers import compile_handlers
from mxworker.board.layout import Given, Word
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.board.slot import BoardSlot
from mxworker.config.bounds import DEFAULT_PROCESS_CONCURRENCY
from mxworker.worker.assembly import runner_of
from mxworker.worker.cpu.pool import CpuPool
from mxworker.worker.handling.decode_budget import DecodeBudget, unlimited
from mxworker.worker.handling.handler_runner import HandlerRunner, ProcessScope
from mxworker.worker.handling.isolation import Isolation
from mxworker.worker.handling.limiter import Limiter
from mxworker.worker.handling.threads import Threads
from tests.harness.counts import counted


class Channel:
    """Takes settlements as a subscription does, and remembers them by delivery tag."""

    def __init__(self, fault: BaseException | None = None, *, of: Collection[str] = ("ack",)) -> None:
        """With `fault`, settling in one of the ways `of` (ack, reject, give_back) raises it."""
        self.is_lost = False
        self.is_consumed = True
        self.acked: list[int] = []
        self.rejected: list[int] = []
        self.requeued: list[int] = []
        self.given_back: list[int] = []
        self.given_up: list[str] = []
        self._faults = dict.fromkeys(of, fault)

    def ack(self, delivery: Delivery) -> bool:
        self._fail("ack")
        return self._note(self.acked, delivery)

    def reject(self, delivery: Delivery, requeue: bool) -> bool:
        self._fail("reject")
        return self._note(self.requeued if requeue else self.rejected, delivery)

    def give_back(self, delivery: Delivery) -> bool:
        self._fail("give_back")
        return self._note(self.given_back, delivery)

    def holds(self, delivery: Delivery) -> bool:
        tag = delivery.delivery_tag
        return not any(tag in tags for tags in (self.acked, self.rejected, self.requeued, self.given_back))

    def give_up(self, why: str) -> None:
        self.is_lost = True
        self.given_up.append(why)

    @property
    def settled(self) -> int:
        """How many settlements there were."""
        return len(self.acked) + len(self.rejected) + len(self.requeued) + len(self.given_back)

    def _fail(self, way: str) -> None:
        fault = self._faults.get(way)
        if fault is not None:
            raise fault

    def _note(self, tags: list[int], delivery: Delivery) -> bool:
        tags.append(delivery.delivery_tag)
        return not self.is_lost


def deliveries(channel: Channel, count: int, body: bytes = b"") -> list[Delivery]:
    """Return `count` deliveries from `channel`, with the tags from 1 on."""
    return [Delivery(body, b"\0\0", b"\0\0", False, tag, channel) for tag in range(1, count + 1)]


@dataclass
class Bench:
    """The runners of some handlers, and what was said of them."""

    runners: list[HandlerRunner]
    slot: BoardSlot
    other: BoardSlot
    isolation: Isolation
    broken: list[BaseException] = field(default_factory=list)
    stuck_reports: int = 0

    @property
    def runner(self) -> HandlerRunner:
        """The only one."""
        (runner,) = self.runners
        return runner

    def give_turn(self) -> None:
        """Let a suspect run alone, as the master would."""
        words = self.slot.words
        self.slot.given[Given.ISOLATION_GRANTED] = words[Word.ISOLATION_WANTED]
        self.isolation.look()

    def count(self, outcome: Outcome) -> int:
        """Return how many deliveries ended so."""
        return counted(self.slot, outcome)


def at_work(
    handlers: Handlers | Sequence[Handler],
    process_concurrency: int = DEFAULT_PROCESS_CONCURRENCY,
    grace_s: float = 5.0,
    threads: int = 8,
    cpu: CpuPool | None = None,
    resources: WorkerResources | None = None,
    rng: random.Random | None = None,
    quarantine_after: int = 3,
    decode_budget: DecodeBudget | None = None,
    has_metrics: bool = True,
) -> Bench:
    """Return the runners of `handlers`. Without resources a retry goes back, and a dead letter is rejected."""
    loop = asyncio.get_running_loop()
    board, limiter = Board(2), Limiter(process_concurrency)
    for each in board.slots:
        each.prepare(1, False, 0)
    slot = board.slot(1)
    bench = Bench([], slot, board.slot(2), Isolation(slot, limiter, loop, lambda: None))

    def note_stuck() -> None:
        bench.stuck_reports += 1

    process = ProcessScope(
        slot=bench.slot,
        loop=loop,
        clock=loop,
        limiter=limiter,
        isolation=bench.isolation,
        threads=Threads(threads),
        rng=rng or random.Random(1),
        on_broken=bench.broken.append,
        on_stuck=note_stuck,
        grace_s=grace_s,
        execute_in_process=cpu.executing if cpu is not None else None,
        resources=resources,
        quarantine_after=quarantine_after,
        decode_budget=decode_budget or unlimited(),
        has_metrics=has_metrics,
    )
    compiled = compile_handlers(handlers) if isinstance(handlers, Handlers) else handlers
    bench.runners += [runner_of(index, handler, process) for index, handler in enumerate(compiled)]
    return bench
