"""A message that kills its workers is found out and set aside; nobody beside it is, and the others go on."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGKILL, SIGTERM
from statistics import median

import pytest
from pamqp import commands

from tests.broker.apps import Recorded
from tests.harness import ledger
from tests.harness.ledger import START, Record
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client, Received
from tests.rabbit.node import Node

V1_MEMORY = Path("/sys/fs/cgroup/memory")
EATEN_BYTES = 150_000_000
BIN_S = 0.2

# What a message does stands in front of its body. One that eats memory does so in a cgroup of its own with a limit, and
# is killed by the kernel; where no such cgroup can be made it sends itself the kernel's signal.
KILLING = f"""
    import asyncio
    import ctypes
    import os
    import random
    import signal
    from pathlib import Path

    from mxworker import Context, Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    work_s = float(os.environ["WORK_S"])
    queue = Queue(os.environ["QUEUE"], type=os.environ["TYPE"], dead_letter=os.environ.get("DEAD_LETTER") != "no")


    @handlers.consume(queue, concurrency=int(os.environ["CONCURRENCY"]))
    async def work(message_id: str) -> None:
        ledger.start(message_id)
        match message_id.partition("!")[0]:
            case "segfault":
                ctypes.string_at(0)
            case "exit":
                os._exit(0)
            case "eat":
                if os.environ.get("LIMITED"):
                    Path(os.environ["LIMITED"]).write_text(str(os.getpid()))
                eaten = bytearray({EATEN_BYTES})
                eaten[::4096] = b"x" * len(eaten[::4096])
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                while True:
                    pass
        await asyncio.sleep(work_s * random.uniform(0.5, 1.5))  # not in step, which would make the rate one of steps
        ledger.finish(message_id)
"""


@pytest.fixture
def limited() -> Iterator[str]:
    """The file that takes a process into a cgroup in which it cannot eat so much; "" where none can be made."""
    group = V1_MEMORY / f"mxworker-test-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError:
        yield ""
        return
    try:
        (group / "memory.limit_in_bytes").write_text(str(EATEN_BYTES // 2))
        yield str(group / "cgroup.procs")
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text().strip(), 10, "the group to be empty")
        group.rmdir()


def quarantined(url: str, queue: str) -> dict[str, Received]:
    """Take all out of the quarantine, by body; none is there twice."""
    with Client(url) as client:
        taken = client.drain(f"{queue}.quarantine") if client.exists(f"{queue}.quarantine") else []
    bodies = Counter(message.body.decode() for message in taken)
    assert not bodies or max(bodies.values()) == 1, bodies
    return {message.body.decode(): message for message in taken}


def wait_until_handled(recorded: Recorded, innocent: set[str], killers: set[str], url: str) -> None:
    """Wait until all the innocent were handled and nothing else is left in the queue."""

    def is_over() -> bool:
        return _set_aside(url, recorded.queue) == len(killers) and recorded.finished_ids >= innocent

    wait_until(is_over, 300, f"{len(innocent)} to be handled and {len(killers)} to be set aside")


def test_killers_among_others_are_set_aside_with_true_facts_and_nobody_else_is(
    node: Node, queue_name: str, tmp_path: Path, limited: str, scale: Callable[[int, int], int], rng: random.Random
) -> None:
    recorded = Recorded(node.url, tmp_path, queue_name)
    recorded.declare()
    innocent = [f"{queue_name}-{number}" for number in range(scale(500, 5000))]
    killers = {kind: f"{kind}!{queue_name}" for kind in ("segfault", "exit", "eat")}
    mixed = innocent.copy()
    for killer in killers.values():
        mixed.insert(rng.randrange(len(mixed) // 3, 2 * len(mixed) // 3), killer)
    recorded.publish_ids(mixed)
    with recorded.service(
        "--workers=4", source=KILLING, work_s=0.04, concurrency=4, env={"LIMITED": limited}
    ) as service:
        wait_until_handled(recorded, set(innocent), set(killers.values()), node.url)
        recorded.wait_until_settled(node)
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
        log = service.log_text()
    kept = quarantined(node.url, queue_name)
    assert set(kept) == set(killers.values())
    for kind, facts in {
        "segfault": {"mx-signal": "SIGSEGV"},
        "exit": {"mx-exit-code": 0, "mx-stack": ""},
        "eat": {"mx-signal": "SIGKILL", "mx-stack": ""},
    }.items():
        headers = kept[killers[kind]].headers
        assert headers.items() >= facts.items(), headers
        assert headers["mx-kills"] >= 3
        assert (headers["mx-queue"], headers["mx-handler"]) == (queue_name, "work")
    assert "string_at" in kept[killers["segfault"]].headers["mx-stack"]
    assert kept[killers["eat"]].headers["mx-peak-rss-bytes"] > EATEN_BYTES // 2
    assert kept[killers["exit"]].headers["mx-peak-rss-bytes"] < EATEN_BYTES // 2
    assert log.count("it is kept in queue") == 3
    report = recorded.judge()
    assert report.lost == set(killers.values()), report
    assert not report.unexpected
    assert not report.in_queue
    assert_rate_was_kept(ledger.read(recorded.path), set(killers.values()))


def assert_rate_was_kept(records: list[Record], killers: set[str]) -> None:
    """Look at the starts of each living worker per fifth of a second, before the first killer came and after it."""
    starts = [record for record in records if record.event is START]
    trouble_ns = min(record.at_ns for record in starts if record.id in killers)
    last_kill_ns = max(record.at_ns for record in starts if record.id in killers)
    first_ns = {record.id: record.at_ns for record in reversed(starts) if record.id not in killers}
    over_ns = min(last_kill_ns, max(first_ns.values()))  # afterwards there is nothing left to do
    calm: list[int] = []
    troubled: list[int] = []
    for pid in {record.pid for record in starts}:
        bins = Counter(int((record.at_ns - trouble_ns) / 1e9 // BIN_S) for record in starts if record.pid == pid)
        last = min(max(bins), int((over_ns - trouble_ns) / 1e9 // BIN_S))
        for number in range(min(bins) + 1, last):  # without the first and the last one, which are not whole
            (calm if number < 0 else troubled).append(bins[number])
    # A worker that stands still has bins of zero. What a busy machine takes while new workers start is not the point.
    if troubled:
        assert median(troubled) >= 0.1 * median(calm), (calm, troubled)


@pytest.mark.parametrize("after", [1, 2])
def test_message_that_hangs_its_workers_is_set_aside_and_runs_alone_once_at_least(
    recorded: Recorded, broker_url: str, queue_name: str, after: int
) -> None:
    killer = f"hang!{queue_name}"
    recorded.publish_ids([f"{queue_name}-1", killer, *(f"{queue_name}-{number}" for number in range(2, 10))])
    flags = ("--workers=2", "--heartbeat-timeout=2s", f"--quarantine-after={after}")
    with recorded.service(*flags, source=KILLING, work_s=0.01, concurrency=4):
        wait_until_handled(recorded, set(recorded.ids) - {killer}, {killer}, broker_url)
    (kept,) = quarantined(broker_url, queue_name).values()
    assert kept.headers["mx-reason"] == "hung", kept.headers
    if kept.headers["mx-signal"] != "SIGKILL":  # as it is when the last one got no CPU to tell its stack
        assert kept.headers["mx-signal"] == "SIGABRT", kept.headers
        assert "in work" in kept.headers["mx-stack"]
    starts = [record for record in ledger.read(recorded.path) if record.event is START and record.id == killer]
    assert len(starts) == kept.headers["mx-kills"] >= 2


def test_message_id_of_a_killer_makes_no_other_message_suspect(
    recorded: Recorded, broker_url: str, queue_name: str
) -> None:
    killer = f"segfault!{queue_name}"
    forged = commands.Basic.Properties(delivery_mode=2, message_id="one and the same")
    innocent = [f"{queue_name}-{number}" for number in range(100)]
    recorded.ids = [*innocent[:50], killer, *innocent[50:]]
    with Client(broker_url) as client:
        client.publish(queue_name, (id_.encode() for id_ in recorded.ids), forged)
    with recorded.service("--workers=2", source=KILLING, work_s=0.01, concurrency=8):
        wait_until_handled(recorded, set(innocent), {killer}, broker_url)
    assert set(quarantined(broker_url, queue_name)) == {killer}
    assert recorded.judge().lost == {killer}


BY_HEADER = """
    import asyncio
    import ctypes
    import os
    import random

    from mxworker import Context, Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.consume(Queue(os.environ["QUEUE"]), concurrency=int(os.environ["CONCURRENCY"]))
    async def work(body: bytes, ctx: Context) -> None:
        name = ctx.delivery.headers["name"]
        ledger.start(name)
        await asyncio.sleep(random.uniform(0.005, 0.015))
        if "kills" in ctx.delivery.headers:
            ctypes.string_at(0)
        ledger.finish(name)
"""


@pytest.mark.parametrize("body", [b"same", bytes(100_000)], ids=["small", "large"])
def test_killer_with_the_id_and_body_of_others_takes_none_of_them_along(
    recorded: Recorded, broker_url: str, queue_name: str, body: bytes
) -> None:
    """It differs from some by nothing but its headers, from others by a byte in the middle of the body, too."""
    innocent = {f"{queue_name}-{number}" for number in range(80)}
    killers = {f"{queue_name}-killer-{number}" for number in range(2)}
    middle = len(body) // 2
    with Client(broker_url) as client:
        for number, name in enumerate([*sorted(innocent)[:20], *sorted(killers), *sorted(innocent)[20:]]):
            headers = {"name": name, **({"kills": True} if name in killers else {})}
            properties = commands.Basic.Properties(delivery_mode=2, message_id="one and the same", headers=headers)
            twin = body[:middle] + bytes((number,)) + body[middle + 1 :] if number % 2 else body
            client.publish_messages(queue_name, [(twin, properties)])
    with recorded.service("--workers=2", source=BY_HEADER, concurrency=16) as service:
        wait_until(
            lambda: recorded.finished_ids >= innocent and _set_aside(broker_url, queue_name) == 2, 300, "the end of all"
        )
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
    with Client(broker_url) as client:
        kept = client.drain(f"{queue_name}.quarantine")
    assert {message.headers["name"] for message in kept} == killers
    assert all(message.headers["mx-kills"] >= 3 for message in kept)
    assert recorded.finished_ids == innocent


LEAVING_BEHIND = """
    import asyncio
    import os

    from mxworker import Handlers, Queue
    from tests.harness.ledger import Ledger

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])
    queue = Queue(os.environ["QUEUE"])
    tasks = []


    async def die() -> None:
        os._exit(1)


    async def work(message_id: str) -> None:
        ledger.start(message_id)
        match message_id.partition("!")[0]:
            case "callback":
                asyncio.get_running_loop().call_soon(os._exit, 1)
            case "task":
                tasks.append(asyncio.create_task(die()))
            case _:
                ledger.finish(message_id)


    async def work_on_all(message_ids: list[str]) -> None:
        for message_id in message_ids:
            await work(message_id)


    if os.environ["BATCHES"] == "yes":
        handlers.consume_batch(queue, size=16, wait=0.1)(work_on_all)
    else:
        handlers.consume(queue, concurrency=int(os.environ["CONCURRENCY"]))(work)
"""


@pytest.mark.parametrize("batches", ["no", "yes"])
def test_killer_that_its_handler_left_behind_is_set_aside_and_nobody_beside_it(
    recorded: Recorded, broker_url: str, queue_name: str, batches: str
) -> None:
    """The process dies after the handlers of some messages have returned, and before their acks were sent."""
    innocent = [f"{queue_name}-{number}" for number in range(60)]
    killers = [f"{kind}!{queue_name}" for kind in ("callback", "task")]
    recorded.publish_ids([killers[0], *innocent[:30]])
    env = {"BATCHES": batches}
    with recorded.service("--workers=2", source=LEAVING_BEHIND, concurrency=8, env=env) as service:
        wait_until_handled(recorded, set(innocent[:30]), {killers[0]}, broker_url)
        recorded.publish_ids([killers[1], *innocent[30:]])  # behind others, its ack might be sent with theirs
        wait_until_handled(recorded, set(innocent), set(killers), broker_url)
        service.signal(SIGTERM)
        assert service.wait_exit() == 0
    kept = quarantined(broker_url, queue_name)
    assert set(kept) == set(killers)
    assert all(message.headers["mx-exit-code"] == 1 for message in kept.values())
    assert all(message.headers["mx-kills"] >= 3 for message in kept.values())


def test_message_that_an_operator_puts_back_has_new_tries(broker_url: str, queue_name: str, tmp_path: Path) -> None:
    """Without a dead-letter queue: the quarantine does not depend on it."""
    recorded = Recorded(broker_url, tmp_path, queue_name)
    killer = f"exit!{queue_name}"
    env = {"DEAD_LETTER": "no"}
    with recorded.service("--workers=2", "--quarantine-after=2", source=KILLING, env=env) as service:
        service.wait_ready()
        recorded.publish_ids([killer])
        kills = 0
        for is_replayed in (False, True):
            wait_until_handled(recorded, set(), {killer}, broker_url)
            (kept,) = quarantined(broker_url, queue_name).values()
            assert kept.headers["mx-exit-code"] == 0
            assert kept.headers["mx-kills"] >= 2
            kills += kept.headers["mx-kills"]
            assert recorded.handled == kills
            if not is_replayed:
                with Client(broker_url) as client:
                    client.publish_messages(queue_name, [(kept.body, kept.properties)])


def test_with_quarantine_off_a_killer_goes_on(recorded: Recorded, broker_url: str, queue_name: str) -> None:
    recorded.publish_ids([f"exit!{queue_name}"])
    with recorded.service("--workers=2", "--quarantine-after=0", source=KILLING):
        wait_until(lambda: recorded.handled >= 5, 60, "five deaths")
    assert quarantined(broker_url, queue_name) == {}


def test_kills_by_an_operator_put_only_that_into_quarantine_which_they_really_hit_three_times(
    recorded: Recorded, broker_url: str, queue_name: str, rng: random.Random
) -> None:
    """Nobody can tell such a kill from one by the kernel; it may hit the same message again and again, by chance."""
    recorded.publish(500)
    killed: set[int] = set()
    with recorded.service("--workers=4", source=KILLING, work_s=0.3, concurrency=8) as service:
        service.wait_ready()
        for _ in range(20):
            handled_then = recorded.handled + 10
            wait_until(lambda then=handled_then: service.workers() and recorded.handled > then, 30, "some work")
            killed.add(service.kill_worker(rng, SIGKILL).pid)
        wait_until(lambda: len(recorded.finished_ids) + _set_aside(broker_url, queue_name) == 500, 300, "every id")
    kept = quarantined(broker_url, queue_name)
    assert recorded.finished_ids.isdisjoint(kept)
    records = ledger.read(recorded.path)
    for id_, message in kept.items():
        holders = [record.pid for record in records if record.id == id_]
        assert len(holders) == message.headers["mx-kills"] >= 3
        assert killed >= set(holders)
    report = recorded.judge()
    assert report.lost == set(kept)
    assert not report.unexpected


def _set_aside(url: str, queue: str) -> int:
    with Client(url) as client:
        return client.counts(f"{queue}.quarantine").messages if client.exists(f"{queue}.quarantine") else 0
