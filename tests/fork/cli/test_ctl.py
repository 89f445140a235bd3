"""`mxworker status` and `mxworker ctl` as an operator uses them, on a real master, or one that answers by a script."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mxworker.control.client import NoAnswer, find
from tests.fork.conftest import Service, Start
from tests.harness.hostile_text import FORGED, HOSTILE, assert_harmless, hidden_in
from tests.harness.waiting import wait_until


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory, with the one for our sockets in it."""
    directory = Path(tempfile.mkdtemp(prefix="mx-"))
    (directory / "mxworker").mkdir(0o700)
    yield directory
    shutil.rmtree(directory)


class Operator:
    """Somebody at a shell whose session has this runtime directory, and who speaks of the service `shop`."""

    def __init__(self, runtime: Path) -> None:
        self._runtime = runtime

    def __call__(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MXWORKER_")}
        return subprocess.run(
            [sys.executable, "-m", "mxworker", *arguments],
            env={**kept, "XDG_RUNTIME_DIR": str(self._runtime), "MXWORKER_NAME": "shop", **(env or {})},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def done(self, *arguments: str) -> str:
        """Return what a command says that has to succeed."""
        ended = self(*arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        return ended.stdout


@pytest.fixture
def operator(runtime: Path) -> Operator:
    return Operator(runtime)


@pytest.fixture
def service(start_ready: Start, runtime: Path) -> Service:
    return start_ready("healthy", "--control", str(runtime / "mxworker" / "shop.sock"))


@contextmanager
def answering(address: Path, answers: list[dict[str, Any]]) -> Iterator[list[str]]:
    """Answer one request after the other, each on a connection of its own; yield what was asked for."""
    asked: list[str] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(address))
        listening.listen()

        def serve() -> None:
            for answer in answers:
                connection, _ = listening.accept()
                with connection, connection.makefile("rwb") as stream:
                    asked.append(json.loads(stream.readline())["do"])
                    stream.write(json.dumps(answer).encode() + b"\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        thread.join(10)
        assert not thread.is_alive(), f"only {asked} was asked for"


def reloading(state: str, why: str = "") -> dict[str, Any]:
    return {"ok": True, "status": {"reload": {"state": state, "generation": 2, "why": why, "note": ""}}}


def test_status_shows_a_line_for_each_worker(operator: Operator, service: Service) -> None:
    shown = operator.done("status")
    lines = shown.splitlines()
    assert lines[0] == f"service     test, process {service.pid}, mxworker 0.1.0"
    assert lines[1].startswith("state       running, ready, for ")
    assert lines[2] == "workers     2 of 2 consume, code generation 1"
    assert [line.split()[:3] for line in lines[-2:]] == [
        [str(slot), str(service.worker(slot)), "ready"] for slot in (1, 2)
    ]


def test_status_as_json_has_the_same_facts(operator: Operator, service: Service) -> None:
    told = json.loads(operator.done("status", "--json"))
    assert (told["name"], told["pid"]) == ("test", service.pid)
    assert [worker["slot"] for worker in told["workers"]] == [1, 2]


def says(operator: Operator, about: str, code: int, text: str) -> None:
    """Ask until this is the answer: the command waits only 2 s for one, which a busy machine may not give."""

    def is_said() -> bool:
        ended = operator("status", about)
        return (ended.returncode, ended.stdout) == (code, text)

    wait_until(is_said, what=f"{code} and {text!r}")


def test_healthy_and_ready_are_exit_codes(operator: Operator, service: Service) -> None:
    says(operator, "--healthy", 0, "healthy\n")
    says(operator, "--ready", 0, "ready\n")
    operator.done("ctl", "pause")
    says(operator, "--healthy", 0, "healthy\n")
    says(operator, "--ready", 1, "all queues are paused\n")


def test_service_is_healthy_while_nothing_consumes(operator: Operator, start: Start, runtime: Path) -> None:
    service = start("hangs_in_boot", "--control", str(runtime / "mxworker" / "shop.sock"))
    service.wait_for("boot", count=2)
    says(operator, "--healthy", 0, "healthy\n")
    says(operator, "--ready", 1, "the service is starting\n")


def test_frozen_master_is_not_healthy(operator: Operator, service: Service) -> None:
    service.kill(signal.SIGSTOP)
    try:
        ended = operator("status", "--healthy")
    finally:
        service.kill(signal.SIGCONT)
    assert ended.returncode == 1
    assert "gave no answer in time" in ended.stderr


def test_pause_and_resume_say_what_is_paused_then(operator: Operator, service: Service) -> None:
    assert operator.done("ctl", "pause", "shop.orders") == "Paused now: shop.orders.\n"
    assert operator.done("ctl", "pause") == "Paused now: all queues; by name: shop.orders.\n"
    assert "paused      all queues; by name: shop.orders\n" in operator.done("status")
    assert operator.done("ctl", "resume") == "Paused now: shop.orders.\n"
    assert operator.done("ctl", "resume", "shop.orders") == "Paused now: nothing.\n"
    ended = operator("ctl", "pause", "shop.order")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("Error: no worker consumes the queue 'shop.order'.")


def test_dump_and_log_level_reach_the_workers(operator: Operator, service: Service) -> None:
    operator.done("ctl", "dump")
    service.wait_for("dump", count=2)
    operator.done("ctl", "log-level", "debug")
    service.wait_for("look False  10", count=2)
    assert operator("ctl", "log-level", "loud").returncode == 2


def test_stop_ends_the_service(operator: Operator, service: Service) -> None:
    operator.done("ctl", "stop")
    assert service.wait() == 0


def test_reload_waits_until_the_new_code_serves(operator: Operator, runtime: Path) -> None:
    script = [{"ok": True, "generation": 2}, reloading("rolling"), reloading("rolling"), reloading("done")]
    with answering(runtime / "mxworker" / "shop.sock", script) as asked:
        assert operator.done("ctl", "reload") == "All workers run generation 2 now.\n"
    assert asked == ["reload", "status", "status", "status"]


def test_reload_that_is_refused_says_why_and_fails(operator: Operator, runtime: Path) -> None:
    why = "exit code 3\n\x1b[2J"
    with answering(runtime / "mxworker" / "shop.sock", [{"ok": True, "generation": 2}, reloading("refused", why)]):
        ended = operator("ctl", "reload")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "Error: generation 2 was refused: exit code 3\\x0a\\x1b[2J\n  The previous workers go on.\n"
    )


def hostile_status(**facts: Any) -> dict[str, Any]:
    """Return a status in which every text is hostile, and most of what should be a number."""
    worker = dict.fromkeys(("slot", "pid", "state", "consuming", "last_exit"), HOSTILE)
    counts = ("in_flight", "acked", "retried", "rejected", "requeued", "undecodable", "timed_out", "quarantined")
    numbers = dict.fromkeys((*counts, "restarts", "uptime_s"), 1)
    return {
        **dict.fromkeys(("name", "version", "state", "unhealthy_because", "unready_because"), HOSTILE),
        **dict.fromkeys(("pid", "workers_ready", "workers_wanted", "generation"), HOSTILE),
        "uptime_s": 1,
        "paused": {"all": False, "queues": [HOSTILE]},
        "run_alone": [HOSTILE],
        "reload": dict.fromkeys(("state", "generation", "why", "note"), HOSTILE),
        "workers": [{**worker, **numbers, "rss_bytes": 1}],
        **facts,
    }


REFUSED = {"state": "refused", "generation": HOSTILE, "why": HOSTILE, "note": f"bad\n\x1b{HOSTILE[2:]}"}
ANSWERS = {
    "status": [{"ok": True, "status": hostile_status()}],
    "status --healthy": [{"ok": True, "status": hostile_status()}],
    "status --ready": [{"ok": True, "status": hostile_status(unhealthy_because="")}],
    "status --json": [{"ok": True, "status": hostile_status()}],
    "ctl pause": [{"ok": True, "paused": {"all": True, "queues": [HOSTILE]}}],
    "ctl resume": [{"ok": True, "paused": {"all": False, "queues": [HOSTILE]}}],
    "ctl scale 3": [{"ok": True, "workers_before": HOSTILE, "workers": HOSTILE}],
    "ctl reload --no-wait": [{"ok": True, "generation": HOSTILE}],
    "ctl reload": [{"ok": True, "generation": HOSTILE}, {"ok": True, "status": {"reload": REFUSED}}],
    "ctl stop": [{"ok": False, "error": HOSTILE}],
    "ctl dump": [{"ok": False, "error": {HOSTILE: HOSTILE}}],
    "ctl log-level debug": [{"ok": False, "error": HOSTILE * 3000}],
}


@pytest.mark.parametrize("command", ANSWERS)
def test_false_socket_writes_nothing_on_the_terminal_but_printable_text(
    command: str, operator: Operator, runtime: Path
) -> None:
    with answering(runtime / "mxworker" / "shop.sock", ANSWERS[command]):
        ended = operator(*command.split())
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    assert "cod.exe" in said, "what it says is not kept back"
    assert hidden_in(said) == set()
    assert not [line for line in said.split("\n") if line.startswith(FORGED)], said
    assert len(said) < 20_000


@pytest.mark.parametrize("command", ["status", "status --ready", "ctl pause", "ctl scale 3", "ctl reload --no-wait"])
@pytest.mark.parametrize("answer", [{}, {"status": 7, "paused": 7}, {"status": {"workers": [HOSTILE]}}], ids=repr)
def test_answer_that_makes_no_sense_is_told_as_such(
    command: str, answer: dict[str, Any], operator: Operator, runtime: Path
) -> None:
    with answering(runtime / "mxworker" / "shop.sock", [{"ok": True, **answer}]):
        ended = operator(*command.split())
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "Error: the answer cannot be understood: it comes from another program, or from another version of mxworker.\n"
    )


def test_names_of_other_services_and_their_places_are_printable(runtime: Path, operator: Operator) -> None:
    place = runtime / "mxworker"
    with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
        for number, listening in enumerate((one, other)):
            listening.bind(str(place / f"x\n\x1b{number}.sock"))
            listening.listen()
            lock = {"pid": 1, "name": HOSTILE, "home": HOSTILE, "start": HOSTILE}
            (place / f"x\n\x1b{number}.sock.lock").write_text(json.dumps(lock))
        several = operator("status", env={"MXWORKER_NAME": ""})
        (place / "x\n\x1b1.sock").unlink()
        single = operator("status", env={"MXWORKER_NAME": ""})
    missing = operator("status", "--name", HOSTILE)
    unanswered = operator("status", "--control-socket", f"{place}/\x1b\nError: forged")
    for ended in (several, single, missing, unanswered):
        assert ended.returncode in (1, 2)
        assert "Traceback" not in ended.stderr
        assert_harmless(ended.stderr)
    assert several.stderr.count("cod.exe") == 4


def test_reload_without_waiting_asks_once(operator: Operator, runtime: Path) -> None:
    with answering(runtime / "mxworker" / "shop.sock", [{"ok": True, "generation": 2}]):
        assert operator.done("ctl", "reload", "--no-wait") == "The reload to generation 2 has begun.\n"


def test_busy_service_is_asked_again(operator: Operator, runtime: Path) -> None:
    busy = {"ok": False, "error": "busy", "busy": True}
    with answering(runtime / "mxworker" / "shop.sock", [busy, busy, {"ok": True}]) as asked:
        operator.done("ctl", "dump")
    assert asked == ["dump"] * 3


def test_without_a_service_the_error_says_where_was_looked(operator: Operator, runtime: Path) -> None:
    ended = operator("status", "--name", "no such service")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: no service called 'no such service' runs here: there is no socket of it in")
    assert f"{runtime}/mxworker" in ended.stderr


def test_among_several_services_the_name_decides(
    operator: Operator, service: Service, start_ready: Start, runtime: Path
) -> None:
    start_ready("healthy", "--name", "mail", "--control", str(runtime / "mxworker" / "mail.sock"))
    ended = operator("status", env={"MXWORKER_NAME": ""})
    assert ended.returncode == 2
    assert "several services run here. Say which one with --name or --control-socket:" in ended.stderr
    assert "mail.sock" in ended.stderr
    assert "shop.sock" in ended.stderr
    assert operator.done("status", "--name", "mail").startswith("service     mail,")


def test_without_a_name_the_only_service_is_meant(service: Service, runtime: Path) -> None:
    places = [runtime / "missing", runtime / "mxworker"]
    assert find(places, None) == runtime / "mxworker" / "shop.sock"
    (runtime / "mxworker" / "notes.txt").touch()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(runtime / "mxworker" / "dead.sock"))
    assert find(places, None) == runtime / "mxworker" / "shop.sock"
    with pytest.raises(NoAnswer, match="no service runs here"):
        find(places[:1], None)


def test_service_of_ones_own_place_comes_before_those_of_later_places(
    service: Service, start_ready: Start, runtime: Path, tmp_path: Path
) -> None:
    start_ready("healthy", "--name", "mail", "--control", str(tmp_path / "mail.sock"))
    own = runtime / "mxworker"
    assert find([own, tmp_path], None) == own / "shop.sock"
    assert find([tmp_path, own], None) == tmp_path / "mail.sock"
    assert find([own, own], None) == own / "shop.sock", "a place that is listed twice is still one"


def test_socket_that_a_dead_master_left_is_told_as_such(operator: Operator, service: Service) -> None:
    service.kill(signal.SIGKILL)
    service.process.wait()
    wait_until(lambda: not service.survivors(), what="the end of the workers")
    ended = operator("status", "--name", "shop")
    assert ended.returncode == 1
    assert "no service answers at" in ended.stderr


def test_reload_replaces_every_worker(operator: Operator, service: Service) -> None:
    before = {service.worker(slot) for slot in (1, 2)}
    assert operator.done("ctl", "reload") == "All workers run generation 2 now.\n"
    told = json.loads(operator.done("status", "--json"))
    live = {worker["pid"]: worker["generation"] for worker in told["workers"] if worker["pid"]}
    assert set(live.values()) == {2}
    assert len(live) == told["workers_ready"] == 2
    assert not before & set(live)


def test_reload_of_code_that_does_not_start_is_refused_each_time_with_its_reason(
    operator: Operator, start_ready: Start, runtime: Path
) -> None:
    service = start_ready("healthy,healthy,refuses_3", "--control", str(runtime / "mxworker" / "shop.sock"))
    before = [service.worker(slot) for slot in (1, 2)]
    for round_ in (1, 2):
        ended = operator("ctl", "reload")
        assert ended.returncode == 1
        assert f"Error: generation {round_ + 1} was refused: " in ended.stderr
        assert "Error: cannot start, 3." in ended.stderr, "what the worker said that could not start"
        assert service.stderr().count("Error: cannot start, 3.") == round_
    assert [service.worker(slot) for slot in (1, 2)] == before
    assert "refused" in operator.done("status")
    says(operator, "--ready", 0, "ready\n")


def test_scale_changes_the_number_of_workers(operator: Operator, service: Service) -> None:
    assert operator.done("ctl", "scale", "4") == "From 2 to 4 workers.\n"
    service.wait_for("ready", count=4)
    assert operator.done("ctl", "scale", "1") == "From 4 to 1 workers.\n"
    service.wait_for("left", count=3)
    wait_until(lambda: "1 of 1 consume" in operator.done("status"), what="one worker")
    ended = operator("ctl", "scale", "513")
    assert (ended.returncode, ended.stderr) == (
        1,
        "Error: scale: 'workers' is 513, but must be a number from 1 to 512.\n",
    )
