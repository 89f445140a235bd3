"""Workers that die or hang are replaced; nobody else notices."""

import os
import signal
import time

import pytest

from tests.fork.conftest import Start, seconds_between
from tests.harness.waiting import wait_until

REPLACED_WITHIN_S = 2.0
NOISE_S = 10.0
LOOP_S = 8.0
LINES_PER_S = 2.0


def test_killed_worker_is_replaced_and_its_sibling_undisturbed(start_ready: Start) -> None:
    service = start_ready("healthy")
    sibling = service.worker(2)
    for generation in range(2, 5):
        os.kill(service.worker(1), signal.SIGKILL)
        service.wait_for(f"boot {generation}", slot=1)
    assert service.worker(2) == sibling
    assert service.events("SIG", slot=2) == []
    assert "perhaps out of memory" in service.stderr()
    service.kill(signal.SIGTERM)
    assert service.wait() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGSEGV, signal.SIGQUIT, signal.SIGRTMAX])
def test_signal_to_one_worker_reaches_neither_master_nor_sibling(start_ready: Start, signum: signal.Signals) -> None:
    service = start_ready("healthy")
    os.kill(service.worker(1), signum)
    service.wait_for("boot 2", slot=1)
    assert service.events("SIG", slot=2) == []
    assert "RUNNING -> STOPPING" not in service.stderr()
    service.kill(signal.SIGTERM)
    assert service.wait() == 0


def test_blocked_worker_says_what_it_does_dies_and_is_replaced_in_time(start_ready: Start) -> None:
    service = start_ready("blocked,healthy", "--heartbeat", "5")
    sibling = service.worker(2)
    ready = service.events("ready", slot=1)[0]
    (dump,) = service.wait_for("dump", slot=1)
    (again,) = service.wait_for("boot 2", slot=1)
    assert seconds_between(ready.at_ns, dump.at_ns) >= 5.0
    assert seconds_between(ready.at_ns, again.at_ns) < 5.0 + REPLACED_WITHIN_S + NOISE_S
    log = service.stderr()
    assert "RUNNING -> ABORTING (hang)" in log
    assert "Fatal Python error: Aborted" in log
    assert "program.py" in log.partition("Fatal Python error")[2]
    assert "SIGABRT" in log
    assert "held orders: message id 'message-1', delivery tag 1" in log
    assert "message-20'" in log
    assert "message-21'" not in log
    assert "held 10 more" in log
    assert service.worker(2) == sibling


def test_stopped_worker_is_killed_and_its_deliveries_are_named(start_ready: Start) -> None:
    service = start_ready("holding,healthy", "--heartbeat", "5")
    os.kill(service.worker(1), signal.SIGSTOP)
    stopped_ns = time.monotonic_ns()
    (again,) = service.wait_for("boot 2", slot=1)
    assert seconds_between(stopped_ns, again.at_ns) < 5.0 + REPLACED_WITHIN_S + NOISE_S
    log = service.stderr()
    assert "ABORTING -> KILLING (hang)" in log
    assert "held orders: message id 'message-7', delivery tag 7" in log
    assert "1 message goes back to the broker" in log


def test_master_that_stood_still_judges_nobody(start_ready: Start) -> None:
    """The whole session stands still, as under a frozen cgroup, and the workers come back a little after the master."""
    service = start_ready("healthy", "--heartbeat", "5")
    pids = [service.pid, service.worker(1), service.worker(2)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(7.5)  # the length of the stand-still is what is tested
    os.kill(service.pid, signal.SIGCONT)
    wait_until(lambda: "overslept" in service.stderr(), 5.0, "the master's notice")
    time.sleep(0.1)  # so is this, shorter than the round
    for pid in pids[1:]:
        os.kill(pid, signal.SIGCONT)
    time.sleep(2.0)  # nothing may happen now
    assert "ABORTING" not in service.stderr()
    assert len(service.events("boot")) == 2


def test_worker_that_crashes_after_ready_is_tried_for_ever_and_its_sibling_stays(start_ready: Start) -> None:
    service = start_ready("crashes_after_ready,healthy")
    service.wait_for("boot", slot=1, count=5, within_s=30)
    assert len(service.events("boot", slot=2)) == 1
    assert service.process.poll() is None
    assert "SIGSEGV" in service.stderr()


def test_exit_code_of_a_handler_is_not_taken_for_a_failed_start(start_ready: Start) -> None:
    """Codes that say why a worker could not start may come from anything that calls `os._exit`."""
    service = start_ready("exits_after_ready,healthy")
    service.wait_for("boot 2", slot=1)
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    log = service.stderr()
    assert "exit code 3; the next one starts in" in log
    assert "consumes orders" not in log, "what it consumed is no error"


def test_crash_loop_of_all_workers_writes_a_bounded_log(start_ready: Start) -> None:
    service = start_ready("finishes", "--workers", "8", "--log-level", "info")
    service.wait_for("boot", count=5 * 8, within_s=30)  # the first failures come quickly, and are told
    assert service.stderr().count("ended after") < 4 * 8
    began_ns = time.monotonic_ns()
    written, forked = len(service.stderr().splitlines()), len(service.events("boot"))
    time.sleep(LOOP_S)  # the length of the loop is what is tested
    assert service.process.poll() is None
    assert len(service.events("boot")) > forked
    more = len(service.stderr().splitlines()) - written
    assert more < seconds_between(began_ns) * LINES_PER_S
    service.kill(signal.SIGTERM)
    assert service.wait() == 0


def test_burst_ends_with_zero_when_every_worker_finished(start: Start) -> None:
    service = start("finishes", "--burst")
    assert service.wait() == 0
    assert len(service.events("boot")) == 2


def test_burst_goes_on_while_one_worker_works(start_ready: Start) -> None:
    service = start_ready("finishes,healthy", "--burst")
    wait_until(lambda: "(burst)" in service.stderr(), 5.0, "the first worker's end")
    os.kill(service.worker(2), signal.SIGKILL)
    service.wait_for("ready", slot=2, count=2)
    os.kill(service.worker(2), signal.SIGTERM)
    service.wait_for("boot 3", slot=2)  # it left, but not because its queues were empty
    service.kill(signal.SIGTERM)
    assert service.wait() == 0
    assert len(service.events("boot", slot=1)) == 1


def test_without_burst_a_worker_that_leaves_is_replaced(start_ready: Start) -> None:
    service = start_ready("healthy")
    os.kill(service.worker(1), signal.SIGTERM)
    service.wait_for("boot 2", slot=1)
    assert "RUNNING -> BACKOFF (left unasked)" in service.stderr()


def test_crash_loop_of_workers_with_many_threads_writes_few_and_short_stacks(start_ready: Start) -> None:
    service = start_ready("crashes_with_many_threads", "--workers", "4")
    service.wait_for("boot", count=5 * 4, within_s=30)
    log = service.stderr()
    assert 1 <= log.count("Fatal Python error") <= log.count("ended after") < 4 * 4
    assert "Current thread" in log
    assert "[cut]" in log
    assert len(log) < log.count("ended after") * 10_000 + 20_000
