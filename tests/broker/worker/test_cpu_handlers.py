"""Handlers in processes of their own, in a real service: what one does to itself costs its own message alone."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import pytest

from tests.harness import ledger
from tests.harness.processes import Process, children
from tests.harness.retries import FAST
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

ATTEMPTS = FAST.max_attempts
PATIENCE_S = 60.0

APP = """
    import ctypes
    import hashlib
    import os
    import time
    from pathlib import Path

    from mxworker import Context, Handlers
    from mxworker.errors import MxWorkerError, Unroutable
    from tests.harness.ledger import Ledger
    from tests.harness.retries import FAST

    handlers = Handlers()
    ledger = Ledger(os.environ["LEDGER"])


    @handlers.lifespan
    async def lifespan():
        yield
        Path(f"left-{os.getpid()}").touch()


    @handlers.consume(os.environ["QUEUE"], cpu=True, concurrency=4, timeout=4, retry=FAST)
    def work(text: str) -> None:
        ledger.start(text)
        print(f"{text}\\n", end="", flush=True)  # in one write, so that those of other processes do not come between
        what, _, seconds = text.partition(" ")[0].partition(":")
        match what:
            case "exit":
                os._exit(5)
            case "segfault":
                ctypes.string_at(0)
            case "stuck":
                while True:
                    pass
            case "sleep":
                time.sleep(float(seconds))
        ledger.finish(text)


    @handlers.consume(os.environ["QUEUE"] + ".long", cpu=True, timeout=120, retry=None)
    def long(text: str) -> None:
        ledger.start(text)
        time.sleep(float(text))
        ledger.finish(text)


    @handlers.consume(os.environ["QUEUE"] + ".digest", cpu=True, retry=None)
    def digest(body: bytes, ctx: Context) -> None:
        answer = f"{hashlib.sha256(body).hexdigest()} {len(body)}"
        confirmed = ctx.publisher.publish_sync(answer, routing_key=os.environ["QUEUE"] + ".out", message_id="mine")
        assert confirmed.message_id == "mine"
        for refused, error in (
            (lambda: ctx.publisher.publish_sync(b"", routing_key="no such queue"), Unroutable),
            (lambda: ctx.publisher.publish_nowait(b"", routing_key="x"), MxWorkerError),
            (ctx.channel, MxWorkerError),
            (ctx.pause, MxWorkerError),
            (lambda: ctx.stats, MxWorkerError),
        ):
            try:
                refused()
            except error:
                continue
            raise AssertionError(f"no {error.__name__}")
"""


class Processed:
    """A service with handlers in processes of their own, and what they did."""

    def __init__(self, service: Service, queue: str, path: Path) -> None:
        self.service = service
        self.queue = queue
        self.path = path

    def records(self) -> list[ledger.Record]:
        return ledger.read(self.path)

    def wait_started(self, count: int) -> None:
        wait_until(lambda: len(self.records()) >= count, PATIENCE_S, f"{count} records")

    def members(self) -> list[Process]:
        """Return the processes of all workers' handlers."""
        return [member for worker in self.service.workers() for member in children(worker.pid)]


@pytest.fixture
def queues(queue_name: str, admin: Client) -> Iterator[str]:
    """The name of the first queue; those beside it are deleted, too."""
    yield queue_name
    for beside in (".long", ".digest"):
        admin.delete(f"{queue_name}{beside}")
        admin.delete(f"{queue_name}{beside}.dlq")
    admin.delete(f"{queue_name}.out")


@contextmanager
def processing(url: str, folder: Path, queue: str, *flags: str) -> Iterator[Processed]:
    """Run the service until the block ends, with two workers; then no process of it is left."""
    path = folder / "ledger"
    env = {"MXWORKER_BROKER_URL": url, "LEDGER": str(path), "QUEUE": queue}
    command = mxworker_run(write_app(folder, APP), "--workers=2", *flags, app_dir=folder)
    with Service(command, folder, env=env) as service:
        service.wait_ready()
        yield Processed(service, queue, path)


def test_what_a_handler_does_to_its_process_costs_only_its_own_message(
    broker_url: str,
    queues: str,
    admin: Client,
    tmp_path: Path,
    rng: random.Random,
    scale: Callable[[int, int], int],
) -> None:
    good = [f"sleep:{rng.uniform(0, 0.02):.3f} {number}" for number in range(scale(300, 3000))]
    bad = [f"{what} {number}" for what in ("exit", "segfault", "stuck") for number in range(scale(2, 20))]
    mixed = rng.sample(good + bad, len(good) + len(bad))
    with processing(broker_url, tmp_path, queues) as processed:
        admin.publish(queues, (text.encode() for text in mixed))
        wait_until(lambda: admin.counts(f"{queues}.dlq").messages == len(bad), 4 * PATIENCE_S, "the dead letters")
        wait_until(lambda: _finished(processed) >= len(good), PATIENCE_S, "the others")
        assert len(processed.service.worker_pids()) == 2
        assert not any(_parent_of(record.pid) for record in processed.records() if record.id in set(bad))
        processed.service.stop()
        assert processed.service.exit_code == 0
        assert "Fatal Python error: Segmentation fault" in processed.service.log_text()
        printed = Counter(processed.service.output_text().splitlines())
    records = processed.records()
    report = ledger.check(good, [record for record in records if record.id in set(good)])
    assert report.exactly_once, report
    started = Counter(record.id for record in records if record.event is ledger.START)
    assert {text: started[text] for text in bad} == dict.fromkeys(bad, ATTEMPTS)
    assert printed == started, "what handlers print is on stdout, whole"
    dead = {message.body.decode(): message.headers for message in admin.drain(f"{queues}.dlq")}
    reasons = {text: (headers["mx-reason"], headers["mx-attempts"]) for text, headers in dead.items()}
    assert reasons == {text: ("timeout" if "stuck" in text else "lost", ATTEMPTS) for text in bad}
    assert admin.counts(queues).messages == 0


def _finished(processed: Processed) -> int:
    return sum(record.event is ledger.FINISH for record in processed.records())


@pytest.mark.alone
def test_killed_worker_takes_its_processes_along(
    broker_url: str, queues: str, admin: Client, tmp_path: Path, rng: random.Random
) -> None:
    with processing(broker_url, tmp_path, queues) as processed:
        admin.publish(queues, [b"sleep:1 %d" % number for number in range(8)])
        serving = {worker.pid for worker in processed.service.workers()}
        wait_until(
            lambda: {_parent_of(record.pid) for record in processed.records()} >= serving,
            PATIENCE_S,
            "a handler in a process of each worker",
        )
        victim = processed.service.kill_worker(rng)
        members = {record.pid for record in processed.records()}
        workers = {worker.pid for worker in processed.service.workers()}
        wait_until(
            lambda: all(_parent_of(pid) in workers for pid in members if _parent_of(pid)),
            3,
            f"the end of all of {victim}",
        )
        wait_until(lambda: _finished(processed) >= 8, PATIENCE_S, "every message")
    report = ledger.check([f"sleep:1 {number}" for number in range(8)], processed.records())
    assert report.nothing_lost
    assert not report.overlapping


def _parent_of(pid: int) -> int | None:
    """Return the parent's pid of a living process."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return None
    return None if state == "Z" else int(parent)


def test_process_killed_from_outside_costs_an_attempt(
    broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with processing(broker_url, tmp_path, queues) as processed:
        admin.publish(queues, [b"sleep:3"])
        processed.wait_started(1)
        os.kill(processed.records()[0].pid, SIGKILL)
        wait_until(lambda: _finished(processed) == 1, PATIENCE_S, "its second attempt")
        assert "its process ended with SIGKILL" in processed.service.log_text()
    assert ledger.check(["sleep:3"], processed.records()).nothing_lost


@pytest.mark.parametrize("to_group", [True, False], ids=["Ctrl-C", "TERM to the master"])
def test_drain_finishes_a_handler_that_runs(
    to_group: bool, broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with processing(broker_url, tmp_path, queues) as processed:
        admin.publish(f"{queues}.long", [b"1.5"])
        processed.wait_started(1)
        if to_group:
            os.killpg(processed.service.pid, SIGINT)
        else:
            processed.service.signal(SIGTERM)
        assert processed.service.wait_exit() == 0
        wait_until(lambda: not processed.service.survivors(), PATIENCE_S, "the end of its processes")
    assert (tmp_path / f"left-{processed.records()[0].pid}").exists(), "its lifespan was left"
    report = ledger.check(["1.5"], processed.records(), [m.body.decode() for m in admin.drain(f"{queues}.long")])
    assert report.exactly_once, report


def test_drain_kills_what_does_not_finish_in_time_and_leaves_its_message(
    broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with processing(broker_url, tmp_path, queues, "--drain-timeout=1") as processed:
        admin.publish(f"{queues}.long", [b"100"])
        processed.wait_started(1)
        begin = time.monotonic()
        processed.service.signal(SIGTERM)
        assert processed.service.wait_exit() == 6
        assert time.monotonic() - begin < 15  # far from the 100 s of the handler
        wait_until(lambda: not processed.service.survivors(), PATIENCE_S, "the end of its processes")
    assert [message.body for message in admin.drain(f"{queues}.long")] == [b"100"]


def test_processes_are_kept_and_shared_by_the_queues(
    broker_url: str, queues: str, admin: Client, tmp_path: Path
) -> None:
    with processing(broker_url, tmp_path, queues, "--workers=1") as processed:
        for number in range(5):
            admin.publish(queues, [b"sleep:0 %d" % number])
            admin.publish(f"{queues}.long", [b"0.0%d" % number])
            wait_until(lambda due=2 * number + 2: _finished(processed) == due, PATIENCE_S, "both")
        assert len({record.pid for record in processed.records()}) <= 2
        assert len(processed.members()) <= 2


def test_large_bodies_arrive_and_what_is_published_is_confirmed(
    broker_url: str, queues: str, admin: Client, tmp_path: Path, rng: random.Random
) -> None:
    bodies = [rng.randbytes(8_000_000) for _ in range(4)]
    admin.declare_quorum(f"{queues}.out")
    with processing(broker_url, tmp_path, queues) as processed:
        admin.publish(f"{queues}.digest", bodies)
        wait_until(lambda: admin.counts(f"{queues}.out").messages == len(bodies), PATIENCE_S, "all answers")
        processed.service.stop()
        assert processed.service.exit_code == 0
    answers = Counter(message.body.decode() for message in admin.drain(f"{queues}.out"))
    assert answers == Counter(f"{hashlib.sha256(body).hexdigest()} {len(body)}" for body in bodies)
    assert admin.counts(f"{queues}.digest.dlq").messages == 0
