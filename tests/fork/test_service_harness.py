"""The service harness drives a stand-in master: it sees what happens to it and leaves nothing behind."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from tests.harness.processes import Process, children, in_session
from tests.harness.repository import REPOSITORY
from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until

STAND_IN = """
import json, os, signal, sys, time

STUBBORN = "--stubborn" in sys.argv

def say(message):
    os.write(2, json.dumps({"level": "info", "message": message}).encode() + b"\\n")

def spawn():
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN if STUBBORN else signal.SIG_DFL)
        while True:
            signal.pause()
    return pid

children = {spawn() for _ in range(int(sys.argv[1]))}

def leave(number, frame):
    if STUBBORN:
        return
    for pid in children:
        os.kill(pid, signal.SIGTERM)
    say("bye")
    os._exit(7)

signal.signal(signal.SIGTERM, leave)
os.write(2, b"not json\\n[1]\\n")
print("to stdout", flush=True)
say("Ready in 0.01 s.")
while True:
    signal.pause()
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> list[str]:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    return [sys.executable, str(script)]


@pytest.fixture
def service(stand_in: list[str], tmp_path: Path) -> Iterator[Service]:
    with Service([*stand_in, "3"], tmp_path) as service:
        service.wait_ready()
        yield service


def test_the_children_of_the_master_are_its_workers(service: Service) -> None:
    pids = service.worker_pids()
    assert len(pids) == 3
    assert pids == sorted(pids)
    assert all(Process.find(pid) for pid in pids)
    assert {process.pid for process in service.survivors()} == {service.pid, *pids}


def test_log_lines_that_are_json_objects_are_records_and_others_are_tolerated(service: Service) -> None:
    assert service.log_records() == [{"level": "info", "message": "Ready in 0.01 s."}]
    assert "not json\n" in service.log_text()
    assert service.output_text() == "to stdout\n"


def test_a_signal_reaches_the_master_and_its_exit_code_is_returned(service: Service) -> None:
    assert service.exit_code is None
    service.signal(SIGTERM)
    assert service.wait_exit() == 7
    assert service.exit_code == 7
    assert service.worker_pids() == []
    service.wait_for_log("bye")
    service.signal(SIGTERM)  # too late, and harmless


def test_a_killed_worker_is_gone_and_the_choice_follows_the_seed(service: Service) -> None:
    workers = service.wait_workers(3)
    victim = service.kill_worker(random.Random(5))
    assert victim == random.Random(5).choice(workers)
    assert not victim.is_alive  # a zombie at most: the stand-in does not reap
    assert service.workers() == [worker for worker in workers if worker != victim]
    service.kill_worker(random.Random(5))
    service.kill_worker(random.Random(5))
    assert service.workers() == []
    with pytest.raises(AssertionError, match="no worker"):
        service.kill_worker(random.Random(5))


def test_a_stopped_worker_is_alive(service: Service) -> None:
    worker = service.kill_worker(random.Random(1), SIGSTOP)
    assert worker.is_alive
    assert worker.signal(SIGCONT)


def test_stop_may_be_called_twice_and_leaves_no_process(service: Service) -> None:
    pid, workers = service.pid, service.workers()
    service.stop()
    service.stop()
    assert not any(worker.is_alive for worker in workers)
    assert in_session(pid) == []


def test_stop_ends_a_service_that_ignores_sigterm(stand_in: list[str], tmp_path: Path) -> None:
    service = Service([*stand_in, "2", "--stubborn"], tmp_path)
    service.wait_ready()
    workers = service.wait_workers(2)
    service.stop(timeout_s=0.2)
    assert service.exit_code == -SIGKILL
    assert not any(worker.is_alive for worker in workers)


def test_orphans_of_a_killed_master_are_seen_and_ended(stand_in: list[str], tmp_path: Path) -> None:
    with Service([*stand_in, "2"], tmp_path) as service:
        service.wait_ready()
        workers = service.wait_workers(2)
        service.signal(SIGKILL)
        assert service.wait_exit() == -SIGKILL
        assert service.survivors() == workers
    assert service.survivors() == []


def test_a_service_that_ends_before_it_is_ready_fails_at_once_with_its_log(tmp_path: Path) -> None:
    service = Service([sys.executable, "-c", "import sys; sys.exit('no such app')"], tmp_path)
    with pytest.raises(AssertionError, match=r"(?s)ended with 1.*no such app"):
        service.wait_ready(timeout_s=60)


def test_waits_that_come_to_nothing_say_for_what(service: Service) -> None:
    with pytest.raises(AssertionError, match="Ready in"):
        service.wait_ready(timeout_s=0.05, times=2)
    with pytest.raises(AssertionError, match="did not end within"):
        service.wait_exit(timeout_s=0.05)
    with pytest.raises(AssertionError, match="4 workers"):
        service.wait_workers(4, timeout_s=0.05)
    with pytest.raises(AssertionError, match="'rain' in the log"):
        service.wait_for_log("rain", timeout_s=0.05)


def test_the_log_is_printed_when_the_test_fails(
    stand_in: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with Service([*stand_in, "0"], tmp_path) as service:
            service.wait_ready()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "Ready in" in capsys.readouterr().out


def test_settings_of_the_test_run_do_not_reach_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MXWORKER_WORKERS", "99")
    show = "import os; print(os.environ.get('MXWORKER_WORKERS'), os.environ['MXWORKER_NAME']); import mxworker"
    with Service([sys.executable, "-c", show], tmp_path, env={"MXWORKER_NAME": "x"}) as service:
        assert service.wait_exit() == 0
        assert service.output_text() == "None x\n"


def test_an_app_is_written_dedented_and_named_on_the_command_line(tmp_path: Path) -> None:
    app = write_app(tmp_path, "    answer = 42\n    handlers = answer\n", name="shop")
    assert app == "shop:handlers"
    assert (tmp_path / "shop.py").read_text() == "answer = 42\nhandlers = answer\n"
    command = mxworker_run(app, "--burst", app_dir=tmp_path)
    assert command[1:] == ["-m", "mxworker", "run", "shop:handlers", f"--app-dir={tmp_path}", "--burst"]
    assert (REPOSITORY / "mxworker").is_dir()


def test_another_process_with_the_same_pid_is_not_taken_for_ours() -> None:
    ours = Process.find(os.getpid())
    assert ours
    assert ours.is_alive
    stranger = Process(ours.pid, ours.started_at_ticks + 1)
    assert not stranger.is_alive
    assert not stranger.signal(SIGTERM)  # would end this test run


def test_a_process_that_was_reaped_is_neither_alive_nor_signalled() -> None:
    popen = subprocess.Popen(["sleep", "60"])
    process = Process.find(popen.pid)
    assert process
    assert process in children(os.getpid())
    assert process.signal(SIGKILL)
    popen.wait(60)
    assert not process.is_alive
    assert not process.signal(SIGKILL)
    assert Process.find(popen.pid) is None


def test_a_name_with_parentheses_does_not_confuse_the_start_time(tmp_path: Path) -> None:
    script = tmp_path / "a) R 1 (b"
    script.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    script.chmod(0o700)
    popen = subprocess.Popen([str(script)])
    try:
        wait_until(lambda: Path(f"/proc/{popen.pid}/comm").read_text().startswith("a)"))
        process = Process.find(popen.pid)
        assert process
        boot_ticks = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        assert boot_ticks - 60 * os.sysconf("SC_CLK_TCK") < process.started_at_ticks <= boot_ticks
    finally:
        popen.kill()
        popen.wait()


@pytest.mark.parametrize("number", range(8))
def test_services_of_half_the_tests_run_on_asyncio(number: int, tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    command = [sys.executable, "-c", "import asyncio; from mxworker.worker import loops; print(loops._loops.__name__)"]
    with Service(command, tmp_path) as service:
        service.wait_exit()
        assert service.output_text().strip() == ("uvloop" if number % 2 else "asyncio")
