"""Each way to the wire settles a delivery once, after its copy is safe, or leaves it unsettled when it is cut."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from mxworker import Ack, Delivery, Handlers, Queue, Reject, Requeue, Retry, RetryPolicy, errors
from mxworker.api.attempts import attempt_of
from mxworker.api.context import WorkerResources
from mxworker.api.handlers import compile_handlers
from mxworker.api.settlement import Settlement
from mxworker.board.metrics_layout import Outcome
from mxworker.board.page import Board
from mxworker.wire.field_table import encode
from mxworker.worker.handling.copy_publisher import CopyPublisher
from mxworker.worker.handling.settling import Settling
from tests.harness.copied import properties_on_wire, received, route_of
from tests.harness.counts import counted
from tests.harness.refusing import Hasty, Publishing
from tests.harness.runners import Channel, at_work
from tests.harness.waiting import until
from tests.rabbit.raw import raw_properties

RETRY_QUEUE, DEAD_LETTER_QUEUE = "orders.retry.1000", "orders.dlq"
UNSPLITTABLE = raw_properties(headers=b"\x00\x00\x00\x03abc")
CONFIRMED = None


@dataclass
class WorkerControls:
    """A settling at work, with all around it that it touches."""

    publishing: Publishing | None
    repair: Callable[[], Awaitable[None]] | None = None
    queue: Queue = field(default_factory=lambda: Queue("orders"))
    channel: Channel = field(default_factory=Channel)
    rng: Hasty = field(default_factory=Hasty)
    concurrency: int | None = None
    retry: RetryPolicy | None = field(default_factory=lambda: RetryPolicy(delays=(1, 5), jitter=False))
    may_hold: bool = True
    next: list[Delivery] = field(default_factory=list)
    """What is to run before all that waits."""

    def __post_init__(self) -> None:
        handlers = Handlers()

        @handlers.consume(self.queue, retry=self.retry, concurrency=self.concurrency)
        async def order(body: bytes) -> None:
            pass

        (handler,) = compile_handlers(handlers)
        self.slot = Board(1).slot(1)
        publisher: Any = self.publishing
        copies = CopyPublisher(handler.queue, publisher, self.repair)
        self.settling = Settling(
            handler,
            self.slot.rows.consumer("orders", "order"),
            copies,
            self.rng,
            run_next=self.next.append,
            may_hold=lambda: self.may_hold,
        )

    def delivery(self, raw: bytes = raw_properties(message_id=b"m-1"), *, age_s: float = 0.0) -> Delivery:
        received_at = time.monotonic() - age_s
        return Delivery(b"body", raw, route_of(b"shop", b"new"), False, 1, self.channel, received_at)

    async def settle(self, settlement: Settlement, delivery: Delivery | None = None) -> None:
        delivery = delivery or self.delivery()
        ends = self.settling.settle(delivery, settlement)
        if ends is not None:
            assert self.channel.settled == 0
            await self.settling.by_copy(delivery, ends)

    @property
    def counts(self) -> dict[Outcome, int]:
        """What was counted, without what was not."""
        return {outcome: count for outcome in Outcome if (count := counted(self.slot, outcome))}

    @property
    def settled(self) -> list[str]:
        """How it was settled."""
        ways = ("acked", "rejected", "requeued", "given_back")
        return [way for way in ways for _ in getattr(self.channel, way)]


def repairing(error: errors.BrokerError | None = None) -> Callable[[], Awaitable[None]]:
    async def repair() -> None:
        await asyncio.sleep(0)
        if error is not None:
            raise error

    return repair


# ---- no copy needed


@pytest.mark.parametrize(
    ("raw", "named"), [(raw_properties(message_id=b"m-1"), "m-1"), (raw_properties(), "(no id, delivery tag 1)")]
)
async def test_at_debug_each_acked_message_is_told(raw: bytes, named: str, caplog: pytest.LogCaptureFixture) -> None:
    controls = WorkerControls(Publishing(CONFIRMED))
    await controls.settle(Ack(), controls.delivery(raw))
    assert caplog.messages == []
    caplog.set_level(logging.DEBUG, "mxworker")
    await controls.settle(Ack(), controls.delivery(raw))
    assert caplog.messages == [f"handler order: message {named} of queue orders is acked"]


async def test_for_an_ack_a_frame_is_enough() -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing)
    await controls.settle(Ack())
    assert not publishing.published
    assert controls.settled == ["acked"]
    assert controls.counts == {Outcome.ACK: 1}


# ---- a requeue


async def test_requeue_is_a_copy_with_its_attempt_at_the_end_of_the_queue() -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing)
    publishing.before_each = lambda: _assert_unsettled(controls)
    await controls.settle(Requeue())
    ((copy, queue),) = publishing.published
    assert queue == "orders"
    assert attempt_of(received(properties_on_wire(copy)), 9) == 2
    assert controls.settled == ["acked"]
    assert controls.counts == {Outcome.REQUEUE: 1}


async def test_requeue_into_a_full_queue_is_a_retry_so_that_it_is_counted_and_waits() -> None:
    publishing = Publishing(errors.PublishNacked("full"), CONFIRMED)
    controls = WorkerControls(publishing)
    await controls.settle(Requeue())
    assert [queue for _, queue in publishing.published] == ["orders", RETRY_QUEUE]
    assert attempt_of(received(properties_on_wire(publishing.published[1][0])), 9) == 2
    assert controls.settled == ["acked"]
    assert controls.counts == {Outcome.RETRY: 1}


@pytest.mark.parametrize(
    "error", [errors.PublishNacked("full"), errors.PublishUnconfirmed("lost"), errors.Unroutable("no queue")]
)
async def test_requeue_that_no_queue_takes_goes_back_after_a_pause(error: errors.PublishError) -> None:
    controls = WorkerControls(Publishing(error))
    await controls.settle(Requeue())
    assert controls.settled == ["given_back"]
    assert controls.counts == {Outcome.REQUEUE: 1}
    assert len(controls.rng.ceilings_s) == 1


@pytest.mark.parametrize("retry", [RetryPolicy(), None])
async def test_requeue_ends_as_a_dead_letter_that_knows_of_all_attempts(retry: RetryPolicy | None) -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing, retry=retry)
    headers = encode({"mx-attempt": 4})
    await controls.settle(
        Requeue(), controls.delivery(raw_properties(headers=len(headers).to_bytes(4, "big") + headers))
    )
    ((copy, queue),) = publishing.published
    assert queue == DEAD_LETTER_QUEUE
    assert received(properties_on_wire(copy)).headers["mx-attempts"] == 4


async def test_requeue_that_cannot_be_copied_is_a_dead_letter() -> None:
    controls = WorkerControls(Publishing(CONFIRMED))
    await controls.settle(Requeue(), controls.delivery(UNSPLITTABLE))
    assert controls.settled == ["rejected"]


IN_ORDER = Queue("orders", single_active_consumer=True)


async def test_requeue_where_order_is_promised_is_executed_again_in_its_place() -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing, queue=IN_ORDER, concurrency=1)
    delivery = controls.delivery()
    for executed in (1, 2, 3):
        await controls.settle(Requeue(), delivery)
        assert controls.next == [delivery] * executed
        assert attempt_of(delivery, 4) == executed + 1
    assert not publishing.published
    assert controls.settled == []
    await controls.settle(Requeue(), delivery)
    assert [queue for _, queue in publishing.published] == [DEAD_LETTER_QUEUE]
    assert received(properties_on_wire(publishing.published[0][0])).headers["mx-attempts"] == 4


async def test_requeue_where_order_is_promised_goes_back_when_nothing_is_consumed() -> None:
    controls = WorkerControls(Publishing(CONFIRMED), queue=IN_ORDER, concurrency=1)
    controls.channel.is_consumed = False
    await controls.settle(Requeue())
    assert controls.settled == ["given_back"]
    assert controls.next == []
    assert controls.counts == {Outcome.REQUEUE: 1}


async def test_requeue_of_several_at_once_is_a_copy_also_with_a_single_active_consumer() -> None:
    controls = WorkerControls(Publishing(CONFIRMED), queue=IN_ORDER, concurrency=2)
    await controls.settle(Requeue())
    assert controls.next == []
    assert controls.settled == ["acked"]


# ---- a retry


REPAIRED, IN_VAIN = repairing(), repairing(errors.TopologyRefused("missing"))
LATER = {
    "confirmed": ([CONFIRMED], None, "acked", 1),
    "nacked": ([errors.PublishNacked("full")], REPAIRED, "given_back", 1),
    "unconfirmed": ([errors.PublishUnconfirmed("lost")], REPAIRED, "given_back", 1),
    "overflow": ([errors.PublishOverflow("blocked")], REPAIRED, "given_back", 1),
    "too large": ([errors.MessageTooLarge("16 MB")], REPAIRED, "rejected", 1),
    "not encodable": ([errors.EncodeError("a name")], REPAIRED, "rejected", 1),
    "unroutable, repaired": ([errors.Unroutable("no queue"), CONFIRMED], REPAIRED, "acked", 2),
    "unroutable, repaired, nacked": (
        [errors.Unroutable("no queue"), errors.PublishNacked("full")],
        REPAIRED,
        "given_back",
        2,
    ),
    "unroutable again": ([errors.Unroutable("no queue")], REPAIRED, "given_back", 2),
    "unroutable, refused repair": ([errors.Unroutable("no queue")], IN_VAIN, "given_back", 1),
    "unroutable, no connection": (
        [errors.Unroutable("no queue")],
        repairing(errors.ConnectionLost("gone")),
        "given_back",
        1,
    ),
    "unroutable, no answer": ([errors.Unroutable("no queue")], repairing(errors.ChannelLost("late")), "given_back", 1),
    "unroutable, no repair": ([errors.Unroutable("no queue")], None, "given_back", 1),
}
RETRY_WORD = {"acked": Outcome.RETRY, "given_back": Outcome.REQUEUE, "rejected": Outcome.REJECT}


@pytest.mark.parametrize("case", LATER)
async def test_retry_is_acked_once_its_copy_is_confirmed_and_goes_back_otherwise(case: str) -> None:
    outcomes, repair, way, publishes = LATER[case]
    publishing = Publishing(*outcomes)
    controls = WorkerControls(publishing, repair)
    publishing.before_each = lambda: _assert_unsettled(controls)
    await controls.settle(Retry())
    assert controls.settled == [way]
    assert controls.counts == {RETRY_WORD[way]: 1}
    tried, rest = publishing.published[:publishes], publishing.published[publishes:]
    assert [queue for _, queue in tried] == [RETRY_QUEUE] * publishes
    assert [queue for _, queue in rest] == [DEAD_LETTER_QUEUE] * (way == "rejected")
    for copy, _ in tried:
        assert attempt_of(received(properties_on_wire(copy)), 9) == 2
    assert len(controls.rng.ceilings_s) == (way == "given_back"), "what comes right back waits before"


async def test_retry_without_a_publisher_goes_back() -> None:
    controls = WorkerControls(None)
    await controls.settle(Retry())
    assert controls.settled == ["given_back"]


async def test_retry_that_cannot_be_copied_is_a_dead_letter_of_the_brokers() -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing)
    await controls.settle(Retry(), controls.delivery(UNSPLITTABLE))
    assert not publishing.published
    assert controls.settled == ["rejected"]


# ---- where the broker is not known to dead-letter, nothing is rejected


def elsewhere(declare: str) -> Queue:
    return Queue("orders", declare=declare)  # type: ignore[arg-type]


WAYS_TO_KEEP_RETURNED: dict[str, Any] = {
    "classic": {"type": "classic"},
    "without a limit": {"arguments": {"x-delivery-limit": 2**31 - 1}},
}


@pytest.mark.parametrize("keeps", WAYS_TO_KEEP_RETURNED)
async def test_dead_letter_that_nobody_takes_goes_back_where_returns_do_no_harm(keeps: str) -> None:
    queue = Queue("orders", declare="passive", **WAYS_TO_KEEP_RETURNED[keeps])
    controls = WorkerControls(Publishing(errors.PublishNacked("full")), queue=queue)
    await controls.settle(Reject("no"))
    assert controls.settled == ["given_back"]
    assert controls.counts == {Outcome.REQUEUE: 1}
    assert len(controls.rng.ceilings_s) == 1


@pytest.mark.parametrize("settlement", [Reject("no"), Retry()])
async def test_message_without_a_copy_is_a_dead_letter_by_body_and_facts(settlement: Settlement) -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing, queue=elsewhere("off"))
    await controls.settle(settlement, controls.delivery(UNSPLITTABLE))
    ((copy, queue),) = publishing.published
    dead = received(properties_on_wire(copy))
    assert (queue, copy.body) == (DEAD_LETTER_QUEUE, b"body")
    assert dead.headers["mx-reason"] == "rejected"
    assert controls.settled == ["acked"]


# ---- held where the broker may count what goes back


MANY = 50
QUEUES_WITH_A_LIMIT = {
    "passive": elsewhere("passive"),
    "off": elsewhere("off"),
    "passive, with a limit": Queue("orders", declare="passive", arguments={"x-delivery-limit": 20}),
    "ours, with a limit": Queue("orders", arguments={"x-delivery-limit": 20, "x-dead-letter-exchange": "theirs"}),
}
TRIED_AGAIN: list[tuple[Settlement, str, Outcome]] = [
    (Reject("no"), DEAD_LETTER_QUEUE, Outcome.REJECT),
    (Retry(), RETRY_QUEUE, Outcome.RETRY),
    (Requeue(), "orders", Outcome.REQUEUE),
]


@pytest.mark.parametrize("queue", QUEUES_WITH_A_LIMIT)
@pytest.mark.parametrize(("settlement", "target", "outcome"), TRIED_AGAIN, ids=[repr(case[0]) for case in TRIED_AGAIN])
async def test_copy_is_tried_again_until_it_is_taken_where_the_broker_may_count_what_goes_back(
    queue: str, settlement: Settlement, target: str, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = [errors.PublishUnconfirmed("late"), *[errors.Unroutable("no queue")] * MANY]
    publishing = Publishing(*refusals, CONFIRMED)
    controls = WorkerControls(publishing, queue=QUEUES_WITH_A_LIMIT[queue])
    publishing.before_each = lambda: _assert_unsettled(controls)
    await controls.settle(settlement)
    assert {queue for _, queue in publishing.published} == {target}
    assert controls.settled == ["acked"]
    assert controls.counts == {outcome: 1}
    assert len(controls.rng.ceilings_s) == len(refusals), "a pause before each try"
    told = [message for message in caplog.messages if "is held" in message]
    assert len(told) == 1
    assert all(part in told[0] for part in ("message m-1 of queue orders", "late", "for 15m at most"))


async def test_full_queue_is_tried_again_before_its_retry_queue() -> None:
    full = errors.PublishNacked("full")
    publishing = Publishing(full, full, full, full, CONFIRMED)
    controls = WorkerControls(publishing, queue=elsewhere("passive"))
    await controls.settle(Requeue())
    assert [queue for _, queue in publishing.published] == ["orders", RETRY_QUEUE, "orders", RETRY_QUEUE, "orders"]
    assert controls.counts == {Outcome.REQUEUE: 1}


async def test_held_delivery_goes_back_once_when_it_may_be_held_no_more() -> None:
    publishing = Publishing(errors.PublishNacked("full"))
    controls = WorkerControls(publishing, queue=elsewhere("passive"))
    publishing.before_each = lambda: setattr(controls, "may_hold", len(publishing.published) < MANY)
    await controls.settle(Reject("no"))
    assert controls.settled == ["given_back"]
    assert controls.counts == {Outcome.REQUEUE: 1}
    assert len(publishing.published) == MANY + 1


async def test_held_delivery_whose_channel_ends_is_left_to_the_broker() -> None:
    publishing = Publishing(errors.PublishNacked("full"))
    controls = WorkerControls(publishing, queue=elsewhere("passive"))
    publishing.before_each = lambda: setattr(controls.channel, "is_lost", len(publishing.published) == MANY)
    await controls.settle(Reject("no"))
    assert len(publishing.published) == MANY + 1, "the broker delivers it again: a copy would be one too many"
    assert controls.counts == {Outcome.STALE: 1}


@pytest.mark.parametrize(
    ("arguments", "age_s"), [({}, 901), ({"x-consumer-timeout": 60_000}, 31)], ids=["default", "of the queue"]
)
async def test_delivery_is_held_for_half_of_the_consumer_timeout(arguments: dict[str, int], age_s: float) -> None:
    controls = WorkerControls(
        Publishing(errors.PublishNacked("full")), queue=Queue("orders", declare="passive", arguments=arguments)
    )
    await controls.settle(Reject("no"), controls.delivery(age_s=age_s))
    assert controls.settled == ["given_back"]
    assert controls.counts == {Outcome.REQUEUE: 1}


async def test_cut_while_it_is_held_nothing_is_settled() -> None:
    publishing = Publishing(errors.PublishNacked("full"))
    controls = WorkerControls(publishing, queue=elsewhere("passive"))
    await _cut(controls, Reject("no"), lambda: len(publishing.published) > MANY)


@pytest.mark.parametrize("is_cut", [False, True])
async def test_held_delivery_has_no_deadline_and_ends_with_a_drain(is_cut: bool) -> None:
    handlers, publishing = Handlers(), Publishing(errors.PublishNacked("full"))

    @handlers.consume(elsewhere("passive"), timeout=0.02)
    async def refuse(body: bytes) -> Reject:
        return Reject("no")

    publisher: Any = publishing
    resources = WorkerResources(publisher, publisher, publisher)
    bench, channel = at_work(handlers, rng=Hasty(), resources=resources), Channel()
    bench.runner.admit(Delivery(b"", b"\0\0", b"\0\0", False, 1, channel, time.monotonic()))
    await asyncio.sleep(0.1)  # above the handler's time: what must not happen takes that long
    await until(lambda: len(publishing.published) > MANY, 5, "tries")
    assert (channel.settled, bench.runner.running, bench.runner.stuck) == (0, 1, 0)
    if is_cut:
        bench.runner.cut_short()
    else:
        bench.runner.hold()
    await bench.runner.finished()
    assert channel.given_back == ([] if is_cut else [1])
    assert channel.settled == len(channel.given_back)


# ---- the pause


async def test_pause_before_a_delivery_goes_back_grows_and_begins_anew_after_a_success() -> None:
    refused = errors.PublishNacked("full")
    publishing = Publishing(*[refused] * 7, CONFIRMED, refused)
    controls = WorkerControls(publishing)
    for _ in range(9):
        await controls.settle(Retry(), Delivery(b"", b"\0\0", b"\0\0", False, 1, Channel()))
    assert controls.rng.ceilings_s == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0, 1.0]


async def test_many_that_miss_a_queue_share_one_repair() -> None:
    repairs = 0
    release = asyncio.Event()

    async def repair() -> None:
        nonlocal repairs
        repairs += 1
        await release.wait()

    missing = [errors.Unroutable("no queue")] * 20
    publishing = Publishing(*missing, CONFIRMED)
    controls = WorkerControls(publishing, repair)
    tasks = [asyncio.create_task(controls.settle(Retry())) for _ in range(20)]
    await until(lambda: repairs and len(publishing.published) == 20, 5, "all to miss it")
    tasks[0].cancel()  # the others wait on
    await asyncio.wait(tasks[:1])
    release.set()
    await asyncio.gather(*tasks[1:])
    assert repairs == 1
    assert controls.settled == ["acked"] * 19


# ---- a dead letter


DEAD = {
    "confirmed": ([CONFIRMED], None, "acked", 1),
    "nacked": ([errors.PublishNacked("full")], REPAIRED, "rejected", 1),
    "unconfirmed": ([errors.PublishUnconfirmed("lost")], REPAIRED, "rejected", 1),
    "overflow": ([errors.PublishOverflow("blocked")], REPAIRED, "rejected", 1),
    "too large": ([errors.MessageTooLarge("16 MB")], REPAIRED, "rejected", 1),
    "not encodable": ([errors.EncodeError("a name")], REPAIRED, "rejected", 1),
    "unroutable, repaired": ([errors.Unroutable("no queue"), CONFIRMED], REPAIRED, "acked", 2),
    "unroutable again": ([errors.Unroutable("no queue")], REPAIRED, "rejected", 2),
    "unroutable, refused repair": ([errors.Unroutable("no queue")], IN_VAIN, "rejected", 1),
    "unroutable, no repair": ([errors.Unroutable("no queue")], None, "rejected", 1),
}


@pytest.mark.parametrize("case", DEAD)
async def test_dead_letter_is_acked_once_its_copy_is_confirmed_and_left_to_the_broker_otherwise(case: str) -> None:
    outcomes, repair, way, publishes = DEAD[case]
    publishing = Publishing(*outcomes)
    controls = WorkerControls(publishing, repair)
    publishing.before_each = lambda: _assert_unsettled(controls)
    await controls.settle(Reject("too old"))
    assert controls.settled == [way]
    assert controls.counts == {Outcome.REJECT: 1}
    assert [queue for _, queue in publishing.published] == [DEAD_LETTER_QUEUE] * publishes
    for copy, _ in publishing.published:
        assert received(properties_on_wire(copy)).headers["mx-error"] == "too old"


async def test_dead_letter_without_a_publisher_is_left_to_the_broker() -> None:
    controls = WorkerControls(None)
    await controls.settle(Reject())
    assert controls.settled == ["rejected"]


async def test_without_a_dead_letter_queue_of_ours_the_broker_gets_the_rejection() -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing, queue=Queue("orders", dead_letter=False))
    await controls.settle(Reject())
    assert not publishing.published
    assert controls.settled == ["rejected"]
    assert controls.counts == {Outcome.REJECT: 1}


async def test_dead_letter_that_cannot_be_copied_is_left_to_the_broker() -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing)
    await controls.settle(Reject(), controls.delivery(UNSPLITTABLE))
    assert not publishing.published
    assert controls.settled == ["rejected"]


# ---- stale


@pytest.mark.parametrize("settlement", [Ack(), Requeue(), Retry(), Reject()], ids=repr)
async def test_stale_delivery_ends_in_one_call_of_its_source_and_no_copy(settlement: Settlement) -> None:
    publishing = Publishing(CONFIRMED)
    controls = WorkerControls(publishing)
    controls.channel.is_lost = True
    await controls.settle(settlement)
    assert not publishing.published, "the broker delivers it again: a copy would be one too many"
    assert len(controls.settled) == 1
    assert controls.counts == {Outcome.STALE: 1}


@pytest.mark.parametrize("settlement", [Retry(), Reject()], ids=repr)
@pytest.mark.parametrize("outcome", [CONFIRMED, errors.PublishUnconfirmed("lost")], ids=["confirmed", "unconfirmed"])
async def test_delivery_that_goes_stale_while_its_copy_is_published_ends_in_one_call(
    settlement: Settlement, outcome: Exception | None
) -> None:
    publishing = Publishing(outcome)
    controls = WorkerControls(publishing)
    publishing.before_each = lambda: setattr(controls.channel, "is_lost", True)
    await controls.settle(settlement)
    assert len(controls.settled) == 1
    assert controls.counts == {Outcome.STALE: 1}


# ---- cut


@pytest.mark.parametrize("settlement", [Retry(), Reject()], ids=repr)
async def test_cut_while_its_copy_is_published_nothing_is_settled(settlement: Settlement) -> None:
    publishing = Publishing(asyncio.Event())
    controls = WorkerControls(publishing)
    await _cut(controls, settlement, lambda: bool(publishing.published))


@pytest.mark.parametrize("settlement", [Retry(), Reject()], ids=repr)
async def test_cut_while_its_queue_is_repaired_nothing_is_settled(settlement: Settlement) -> None:
    repairs = 0

    async def repair() -> None:
        nonlocal repairs
        repairs += 1
        await asyncio.Event().wait()

    await _cut(WorkerControls(Publishing(errors.Unroutable("no queue")), repair), settlement, lambda: bool(repairs))


async def test_cut_while_it_waits_to_go_back_nothing_is_settled() -> None:
    controls = WorkerControls(Publishing(errors.PublishNacked("full")))
    controls.rng.uniform = lambda a, b: controls.rng.ceilings_s.append(b) or 3600.0  # type: ignore[method-assign,func-returns-value]
    await _cut(controls, Retry(), lambda: bool(controls.rng.ceilings_s))


async def _cut(controls: WorkerControls, settlement: Settlement, has_come_so_far: Callable[[], bool]) -> None:
    task = asyncio.create_task(controls.settle(settlement))
    await until(has_come_so_far, 5, "the moment")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert controls.settled == []
    assert controls.counts == {}


def _assert_unsettled(controls: WorkerControls) -> None:
    assert controls.settled == [], "settled before the copy was confirmed"
