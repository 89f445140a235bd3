"""What a service costs beside its messages: the start, idling, memory, and what a second worker brings."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from subprocess import PIPE
from urllib.parse import urlsplit

from bench.contenders import declare
from bench.contest import QUEUE
from bench.ours import BURNT_S, IN_FLIGHT
from bench.procedure import Procedure
from bench.scenario import Failed, Measures, Place, Scenario
from bench.sizes import cpu_ns, size_of
from tests.harness.faults import TO_CLIENT
from tests.harness.processes import children
from tests.harness.proxy import Proxy
from tests.harness.repository import REPOSITORY
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.processes import DIES_WITH_PARENT

BURNING = 1_000
CONSUMED = 10_000
IDLE_S = 2.0
_SETTLE_S = 1.0
_DEADLINE_S = 60.0
_MAIN = "from mxworker.cli import main; main()"
_NO_FREEZE = f"import gc; gc.freeze = lambda: None; {_MAIN}"


@contextmanager
def service(place: Place, registry: str, *flags: str, program: str = _MAIN, **env: str) -> Iterator[Service]:
    """Run a service with a registry of `service_app`, on a fresh queue."""
    url = place.broker_url()
    with Client(url) as client:
        client.delete(QUEUE)
        declare(client, QUEUE, "classic")
    settings = {"MXWORKER_BROKER_URL": url, "BENCH_QUEUE": QUEUE, "BENCH_LOG": str(place.folder / "log")}
    command = [sys.executable, "-c", program, "run", f"bench.ours.service_app:{registry}", *flags]
    with redirect_stdout(io.StringIO()), Service(command, place.folder, env={**settings, **env}) as running:
        yield running  # at its end a service prints its log, for tests
    with Client(url) as client:
        client.delete(QUEUE)


def publish(place: Place, payloads: Iterable[object]) -> None:
    """Publish JSON to the queue."""
    with Client(place.broker_url()) as client:
        client.publish(QUEUE, (json.dumps(payload).encode() for payload in payloads))


def wait_for_empty_queue(place: Place) -> None:
    """Return when the queue holds no ready message."""
    with Client(place.broker_url()) as client:
        wait_until(lambda: client.counts(QUEUE).messages == 0, _DEADLINE_S, "an empty queue")


# ---- start


def start_up(place: Place) -> Measures:
    """Start a service, and return the time until it says that it is ready."""
    with service(place, "idle", "--workers=1") as running:
        begun = time.monotonic()  # the process exists, but Python has not begun
        running.wait_ready()
        return {"ready_s": time.monotonic() - begun}


def show_help(place: Place) -> Measures:
    """Return the time of `mxworker --help`."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "mxworker", "--help"], check=True, stdout=subprocess.DEVNULL)
    return {"ready_s": time.monotonic() - begun}


# ---- idle


def idle(place: Place, whose: str) -> Measures:
    """Return the CPU that a service without messages takes."""
    with service(place, "idle", "--workers=1", "--http=127.0.0.1:0", MXWORKER_NO_HTTP="0") as running:
        running.wait_ready()
        workers = running.worker_pids()
        others = [child.pid for child in children(running.pid) if child.pid not in workers]
        pids = workers if whose == "one worker" else [running.pid, *others]
        time.sleep(_SETTLE_S)  # what a start leaves behind is over
        before, begun = sum(map(cpu_ns, pids)), time.monotonic_ns()
        time.sleep(IDLE_S)
        return {"cpu_share": (sum(map(cpu_ns, pids)) - before) / (time.monotonic_ns() - begun) * 100}


# ---- memory


def memory(place: Place, workers: int, program: str = _MAIN) -> Measures:
    """Return the memory of a service that has consumed: master and workers, without the observer."""
    with service(place, "idle", f"--workers={workers}", program=program) as running:
        running.wait_ready()
        publish(place, ({"id": number} for number in range(place.scaled(CONSUMED))))
        wait_for_empty_queue(place)
        return {"pss_mb": sum(size_of(pid).pss_bytes for pid in (running.pid, *running.worker_pids())) / 1e6}


def handlers_in_flight(place: Place) -> Measures:
    """Return by how much a worker grows from being warm to 10,000 running handlers."""
    flags = ("--workers=1", f"--process-concurrency={IN_FLIGHT}")
    with service(place, "held", *flags, MXWORKER_DRAIN_TIMEOUT="1s") as running:
        running.wait_ready()
        publish(place, ({"held": False, "note": "x" * 230} for _ in range(2_000)))
        wait_for_empty_queue(place)
        (worker,) = running.worker_pids()
        before = size_of(worker).pss_bytes
        publish(place, ({"held": True, "note": "x" * 230} for _ in range(IN_FLIGHT)))
        wait_until((place.folder / "log").read_bytes, _DEADLINE_S, f"{IN_FLIGHT} running handlers")
        return {"grown_mb": (size_of(worker).pss_bytes - before) / 1e6}


def unconfirmed_publishes(place: Place) -> Measures:
    """Return by how much a process grows when it publishes and no confirm comes back."""
    url = place.broker_url()
    with Client(url) as client:
        client.delete(QUEUE)
        declare(client, QUEUE, "classic")
    with Proxy(urlsplit(url).hostname or "localhost", urlsplit(url).port or 5672) as proxy:
        settings = {"BENCH_URL": proxy.url(url), "BENCH_QUEUE": QUEUE, "BENCH_MESSAGES": str(IN_FLIGHT)}
        command = [*DIES_WITH_PARENT, sys.executable, "-m", "bench.ours.unconfirmed"]
        with subprocess.Popen(
            command, env=os.environ | settings, cwd=REPOSITORY, stdin=PIPE, stdout=PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            proxy.blackhole(TO_CLIENT)
            print(file=process.stdin, flush=True)
            line = process.stdout.readline()
            proxy.heal()
            process.communicate("\n")
    found = json.loads(line or "{}")
    if found.get("unconfirmed") != IN_FLIGHT:
        raise Failed(f"{IN_FLIGHT} publishes should be unconfirmed, but the publisher said {line!r}")
    return {"grown_mb": found["grown"] / 1e6}


# ---- workers


def burn(place: Place, workers: int) -> Measures:
    """Return how fast workers are whose handlers compute for a millisecond, when all of them work."""
    messages = max(50, place.scaled(BURNING))
    with service(place, "burning", f"--workers={workers}") as running:
        running.wait_ready()
        publish(place, ({"id": number} for number in range(messages)))
        log = place.folder / "log"
        wait_until(lambda: log.stat().st_size == 8 * messages, _DEADLINE_S, "all messages")
    return {"rate": rate_of(log)}


def rate_of(log: Path) -> float:
    """Return the messages per second from the first tenth of the notes to the last tenth."""
    data = log.read_bytes()
    times = sorted(int.from_bytes(data[at : at + 8], "big") for at in range(0, len(data), 8))
    first, last = len(times) // 10, len(times) - len(times) // 10 - 1
    if times[last] == times[first]:
        raise Failed(f"{len(times)} notes are too few to measure a rate")
    return (last - first) / (times[last] - times[first]) * 1e9


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count > 1)}"


SERVING: tuple[Scenario, ...] = (
    Scenario(
        "start-up",
        "from the start of the process until the service is ready, with one worker and the app loaded",
        (Procedure("mxworker run", start_up), Procedure("mxworker --help", show_help)),
        "ready_s",
    ),
    Scenario(
        "idle",
        "CPU used by a service without messages",
        tuple(Procedure(whose, partial(idle, whose=whose)) for whose in ("master and observer", "one worker")),
        "cpu_share",
    ),
    Scenario(
        "memory",
        f"memory of master and workers together, after {CONSUMED:,} messages",
        (
            *(Procedure(_workers(count), partial(memory, workers=count)) for count in (2, 1)),
            Procedure("2 workers, no gc.freeze", partial(memory, workers=2, program=_NO_FREEZE)),
        ),
        "pss_mb",
    ),
    Scenario(
        "handlers-in-flight",
        f"memory by which a worker grows for {IN_FLIGHT:,} running handlers",
        (Procedure("mxworker", handlers_in_flight),),
        "grown_mb",
    ),
    Scenario(
        "unconfirmed-publishes",
        f"memory by which a publisher grows for {IN_FLIGHT:,} unconfirmed publishes",
        (Procedure("mxworker", unconfirmed_publishes),),
        "grown_mb",
    ),
    Scenario(
        "two-workers",
        f"handlers that compute for {BURNT_S * 1000:g} ms, in one worker and in two",
        tuple(Procedure(_workers(count), partial(burn, workers=count)) for count in (1, 2)),
    ),
)
