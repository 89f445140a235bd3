"""The observer under a real master: it lives through all that happens to the workers, and the other way round."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.fork.conftest import Service, Start
from tests.harness.http import Web
from tests.harness.processes import Process, children
from tests.harness.scales import FULL_ONLY
from tests.harness.waiting import wait_until

TITLE = "mxworker: observer"


def observers(service: Service) -> list[Process]:
    return [process for process in children(service.pid) if process.title == TITLE]


def observer(service: Service) -> Process:
    """Wait until there is an observer, and return it."""
    return wait_until(lambda: observers(service), what="an observer")[0]


@pytest.fixture
def observed(start: Start) -> Callable[..., tuple[Service, Web]]:
    def begin(*arguments: str) -> tuple[Service, Web]:
        service = start(*arguments, "--http", "127.0.0.1:0")
        (event,) = service.wait_for("http")
        return service, Web(f"http://127.0.0.1:{event.what.split()[1]}/")

    return begin


Observed = Callable[..., tuple[Service, Web]]


def test_service_is_seen_from_its_start_to_its_end(observed: Observed) -> None:
    service, web = observed("drains_slowly", "--slow-s", "5")
    web.wait_for("/readyz", 200, "ready")
    assert web.get("/livez").text == "alive\n"
    assert web.get(f"{web.url}livez").text == "alive\n", "as a proxy asks"
    assert web.samples()['mxworker_worker_up{worker="1"}'] == 1
    assert web.get("/status.json").status == 200
    before = observer(service)
    service.kill_group(signal.SIGTERM)  # as a service manager sends it
    assert web.wait_for("/readyz", 503).text == "the service is stopping\n"
    assert web.get("/livez").status == 200
    assert observers(service) == [before]
    assert service.events("left") == []
    assert service.wait() == 0
    service.wait_until_gone()
    with pytest.raises(ConnectionRefusedError):
        web.get("/livez")


def test_service_that_starts_is_alive_and_not_ready(observed: Observed) -> None:
    _, web = observed("hangs_in_boot")
    assert web.wait_for("/readyz", 503).text == "the service is starting\n"
    assert web.get("/livez").status == 200
    assert 'mxworker_service_state{state="starting"} 1.0' in web.get("/metrics").text


def test_pause_is_told(observed: Observed) -> None:
    service, web = observed("healthy")
    web.wait_for("/readyz", 200)
    service.kill(signal.SIGUSR2)
    assert web.wait_for("/readyz", 503).text == "all queues are paused\n"
    service.kill(signal.SIGUSR2)
    web.wait_for("/readyz", 200)


def test_dead_observer_is_replaced_and_nobody_else_notices(observed: Observed) -> None:
    service, web = observed("healthy")
    web.wait_for("/readyz", 200)
    for signum in (signal.SIGKILL, signal.SIGSEGV, signal.SIGKILL):
        before = observer(service)
        before.signal(signum)
        wait_until(lambda before=before: not before.is_alive, what="its end")  # type: ignore[misc]
        web.wait_for("/readyz", 200)
        assert observer(service) != before
    assert "the observer (process" in service.stderr()
    assert [event.what for event in service.events("boot")] == ["boot 1", "boot 1"]
    assert service.events("SIG") == []
    service.kill(signal.SIGTERM)
    assert service.wait() == 0


@pytest.mark.parametrize("heartbeat_s", ["5", pytest.param("300", marks=FULL_ONLY)])
def test_observer_that_hangs_is_killed_and_replaced(observed: Observed, heartbeat_s: str) -> None:
    service, web = observed("healthy", "--heartbeat", heartbeat_s)
    web.wait_for("/readyz", 200)
    before = observer(service)
    before.signal(signal.SIGSTOP)
    wait_until(lambda: not before.is_alive, 30, "the end of the hung observer")
    web.wait_for("/readyz", 200)
    assert "has missed its heartbeat; it is killed" in service.stderr()
    assert len(service.events("boot")) == 2
    service.kill(signal.SIGTERM)
    assert service.wait() == 0


def test_stopped_observer_does_not_hold_up_the_end(observed: Observed) -> None:
    service, web = observed("healthy")
    web.wait_for("/readyz", 200)
    observer(service).signal(signal.SIGSTOP)
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    service.wait_until_gone()


def test_observer_dies_with_its_master(observed: Observed) -> None:
    service, web = observed("healthy")
    web.wait_for("/readyz", 200)
    service.kill(signal.SIGKILL)
    service.wait_until_gone()


def test_observer_ends_with_a_master_that_fails(observed: Observed) -> None:
    service, _ = observed("healthy", "--announce-fails")
    assert service.wait() == 1
    service.wait_until_gone()


def test_signals_to_the_observer_do_nothing(observed: Observed) -> None:
    service, web = observed("healthy")
    web.wait_for("/readyz", 200)
    before = observer(service)
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        before.signal(signum)
        assert web.get("/livez").status == 200
    assert observers(service) == [before]
    assert service.events("SIG") == []


# ---- hung workers


def test_stopped_worker_does_not_delay_a_scrape_and_its_age_is_seen(observed: Observed) -> None:
    service, web = observed("healthy", "--heartbeat", "300")  # so nothing but the observer wakes up the master
    web.wait_for("/readyz", 200)
    pid = service.worker(1)
    os.kill(pid, signal.SIGSTOP)
    try:
        quickest_s = min(seconds(lambda: web.get("/metrics")) for _ in range(10))
        assert quickest_s < 0.5
        age = 'mxworker_worker_heartbeat_age_seconds{{worker="{}"}}'.format
        wait_until(lambda: web.samples()[age(1)] > 3, 30, "the age of the heartbeat")
        assert web.samples()[age(2)] < web.samples()[age(1)]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_service_whose_workers_hang_is_not_ready_until_they_are_replaced(observed: Observed) -> None:
    service, web = observed("slow_boot", "--heartbeat", "3", "--slow-s", "2.5")
    web.wait_for("/readyz", 200)
    pids = [service.worker(1), service.worker(2)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    assert web.wait_for("/readyz", 503).text.startswith("0 of 2 workers consume")
    assert web.get("/livez").status == 200
    web.wait_for("/readyz", 200)
    for slot in (1, 2):
        service.wait_for("boot 2", slot=slot)
    wait_until(lambda: web.samples()['mxworker_worker_restarts_total{reason="hang"}'] >= 2)


def test_restarts_are_counted_by_reason(observed: Observed) -> None:
    service, web = observed("healthy")
    web.wait_for("/readyz", 200)
    name = "mxworker_worker_restarts_total"
    assert {value for key, value in web.samples().items() if key.startswith(name)} == {0}
    os.kill(service.worker(1), signal.SIGKILL)
    service.wait_for("boot 2", slot=1)
    wait_until(lambda: web.samples()[f'{name}{{reason="crash"}}'] == 1)
    service.kill(signal.SIGHUP)
    wait_until(lambda: web.samples()['mxworker_reloads_total{outcome="done"}'] == 1, 30, "the reload")
    wait_until(lambda: web.samples()[f'{name}{{reason="reload"}}'] == 2)
    service.kill(signal.SIGTERM)
    assert service.wait() == 0


def test_master_that_is_stuck_is_not_alive(observed: Observed, scale: Callable[[int, int], int]) -> None:
    if not scale(0, 1):
        pytest.skip("takes 15 s; see --full")
    service, web = observed("healthy")
    web.wait_for("/readyz", 200)
    service.kill(signal.SIGSTOP)
    web.wait_for("/livez", 503, "the master has not turned its loop for")
    assert web.get("/readyz").status == 503
    service.kill(signal.SIGCONT)
    web.wait_for("/livez", 200)
    web.wait_for("/readyz", 200)


# ---- what the processes have


def test_workers_do_not_inherit_the_socket(observed: Observed) -> None:
    service, web = observed("shows_fds")
    web.wait_for("/readyz", 200)
    os.kill(service.worker(1), signal.SIGKILL)  # the next one is forked when the observer serves
    service.wait_for("boot 2", slot=1)
    sockets = {pid: open_sockets(pid) for pid in (observer(service).pid, service.worker(1), service.worker(2))}
    assert sockets.pop(observer(service).pid)
    assert list(sockets.values()) == [set(), set()]


def test_observer_inherits_the_listening_socket_alone(observed: Observed) -> None:
    service, web = observed("healthy", "--open-sockets")
    web.wait_for("/readyz", 200)
    assert len(open_sockets(observer(service).pid) & open_sockets(service.pid)) == 1


def open_sockets(pid: int) -> set[str]:
    names = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # a connection that has ended since
            names.add(str(entry.readlink()))
    return {name for name in names if name.startswith("socket:")}


# ---- many clients


def test_a_thousand_idle_connections_do_not_delay_a_scrape(observed: Observed) -> None:
    service, web = observed("healthy")
    web.wait_for("/readyz", 200)
    with many_connections(web, 1000):
        assert min(seconds(lambda: web.get("/metrics")) for _ in range(10)) < 0.2
        assert web.get("/livez").status == 200
    assert [event.what for event in service.events("boot")] == ["boot 1", "boot 1"]
    assert "the observer" not in service.stderr()


@contextmanager
def many_connections(web: Web, count: int) -> Iterator[None]:
    idle = []
    try:
        for number in range(count):
            idle.append(socket.create_connection((web.host, web.port)))
            if number % 2:
                idle[-1].send(b"GET /metrics HTTP/1.1\r\nHost: loc")
        yield
    finally:
        for each in idle:
            each.close()


def seconds(run: Callable[[], object]) -> float:
    start = time.monotonic()
    run()
    return time.monotonic() - start
