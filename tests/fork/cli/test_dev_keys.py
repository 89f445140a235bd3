"""The keys of `mxworker dev` on a real terminal, under a shell with job control, with a made-up service."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mxworker.cli.dev.keys import HINT
from tests.fork.cli.outer_program import LEAVES_WITH
from tests.harness.processes import Process, children
from tests.harness.repository import REPOSITORY
from tests.harness.shell import Shell, pause
from tests.harness.waiting import wait_until

CTRL_C, CTRL_Z = "\x03", "\x1a"
ARROW, PASTED = "\x1b[A", "quit, please"

Develop = Callable[..., Shell]


@pytest.fixture
def develop(tmp_path: Path) -> Iterator[Develop]:
    """`develop("serve", after="&")` types the command at a shell, and waits until the service serves."""
    with ExitStack() as opened:

        def begin(behaviour: str = "serve", *, before: str = "", after: str = "") -> Shell:
            (tmp_path / "app").mkdir()
            (tmp_path / "app" / "app.py").write_text(f"# {behaviour}\n")
            shell = opened.enter_context(Shell(tmp_path, {**os.environ, "PYTHONPATH": str(REPOSITORY)}))
            shell.run(before, sys.executable, "-m", "tests.fork.cli.outer_program outer app --keys", after)
            shell.wait_for("service: serves")
            return shell

        yield begin


def processes(shell: Shell) -> tuple[Process, Process]:
    """Return the outer process and its service."""
    (outer,) = children(shell.pid)
    (service,) = children(outer.pid)
    return outer, service


def state(process: Process) -> str:
    """Return R, S, T and so on: proc_pid_stat(5)."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def exit_code(shell: Shell) -> int:
    """Return the exit code of the last command, when the shell has its terminal back."""
    shell.wait_for_prompt()
    assert shell.takes_lines
    shell.run("echo code: $?")
    shell.wait_for("code: $?")
    shell.wait_for("code: ")
    return int(shell.wait_for_prompt().split()[0])


def test_keys_reach_the_service_and_the_terminal_is_as_before_at_the_end(develop: Develop) -> None:
    shell = develop()
    shell.wait_until_keys_count()
    shell.type("r")
    shell.wait_for("key r; reloading")
    shell.wait_for("service: got SIGHUP")
    shell.type("D")
    shell.wait_for("service: got SIGUSR1")
    shell.type("o")
    shell.wait_for("The service does not answer yet.")
    for by_accident in (ARROW, PASTED):
        shell.type(by_accident)
        pause()

    def is_helped() -> bool:
        shell.type("?")  # again, since one that is read together with the text before it is taken for a part of it
        pause()
        return "q drains." in shell.screen()

    wait_until(is_helped, 20, "the help")
    shown = shell.wait_for("q drains.")
    assert "service: got" not in shown
    assert "please" not in shown  # no echo
    shell.type("q")
    shell.wait_for("service: got SIGTERM")
    assert exit_code(shell) == LEAVES_WITH


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(develop: Develop) -> None:
    shell = develop()
    shell.wait_until_keys_count()
    outer, service = processes(shell)
    shell.type(CTRL_Z)
    shell.wait_for_prompt()
    assert shell.takes_lines
    wait_until(lambda: (state(outer), state(service)) == ("T", "T"), 20, "both to stop")
    shell.run("bg")
    wait_until(lambda: (state(outer), state(service)) != ("T", "T"), 20, "both to go on")
    shell.run("echo do r; echo line: $?")
    shell.wait_for("line: 0")
    pause()
    assert shell.takes_lines
    assert "T" not in (state(outer), state(service))
    shell.run("fg")
    shell.wait_until_keys_count()
    shell.type("q")
    assert "key r" not in shell.wait_for("service: got SIGTERM")
    assert exit_code(shell) == LEAVES_WITH


def test_background_process_neither_reads_the_terminal_nor_stops(develop: Develop) -> None:
    shell = develop(after="&")
    outer, _ = processes(shell)
    shell.type("r q d\b\b\b\b\b")  # a line that is not complete: only a program that reads keys would get them
    pause()
    assert shell.takes_lines
    assert state(outer) != "T"
    assert "key r" not in shell.screen()
    shell.type("\x15")  # forget the line
    shell.run("fg")
    shell.wait_until_keys_count()
    shell.type(CTRL_C)
    shell.wait_for("service: got SIGINT")
    assert exit_code(shell) == LEAVES_WITH


def test_ctrl_z_stops_nothing_that_no_shell_could_continue(develop: Develop) -> None:
    shell = develop(before="exec")
    shell.wait_until_keys_count()
    shell.type(CTRL_Z)
    pause()
    shell.type("q")
    shell.wait_for("service: got SIGTERM")
    assert shell.wait_end() == LEAVES_WITH


def test_crash_restores_the_terminal(develop: Develop) -> None:
    shell = develop()
    shell.wait_until_keys_count()
    shell.type("p")
    shell.wait_for("FileNotFoundError")
    assert exit_code(shell) == 1


def test_key_starts_a_service_that_was_killed_and_a_signal_restores_the_terminal(develop: Develop) -> None:
    shell = develop()
    shell.wait_until_keys_count()
    outer, service = processes(shell)
    service.signal(signal.SIGKILL)
    shell.wait_for("the service ended with exit code 137; the next change, or the key r, starts it again")
    assert not shell.takes_lines
    shell.type("o")
    shell.wait_for("The service does not run, so it has no page.")
    shell.type("r")
    shell.wait_for("service: serves")
    outer.signal(signal.SIGTERM)
    assert exit_code(shell) == LEAVES_WITH


def test_only_a_person_who_sees_the_log_has_a_keyboard(tmp_path: Path) -> None:
    (tmp_path / "ask.py").write_text(
        "from mxworker.cli.dev.keyboard import has_keyboard\nopen('answers', 'a').write(f'{has_keyboard()} ')\n"
    )
    answers = tmp_path / "answers"
    with Shell(tmp_path, {**os.environ, "PYTHONPATH": str(REPOSITORY)}) as shell:
        for redirection in ("", "2> log", "< /dev/null", "| cat"):
            shell.run(sys.executable, "ask.py", redirection)
            shell.wait_for_prompt()
    assert answers.read_text() == "True False False True "


# ---- the real service, on the embedded broker


APP = """
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from mxworker import Handlers

handlers = Handlers()


@dataclass
class Order:
    id: int
    note: str | None


@dataclass
class Coded:
    code: Annotated[str, Meta(pattern="^[A-Z]{3}$")]


@handlers.consume("orders")
async def order(payload: Order) -> None:
    Path("handled").write_text(repr(payload))


@handlers.consume("codes")
async def code(payload: Coded) -> None: ...


@handlers.consume("mails")
def mail(payload: dict) -> None:
    print("mail to", payload["to"].upper())
"""


def said(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_sample_of_key_p_is_handled_and_key_o_tells_the_page(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MXWORKER_")}
    no_service = {"INVOCATION_ID": "", "NOTIFY_SOCKET": "", "XDG_RUNTIME_DIR": str(tmp_path), "RUNTIME_DIRECTORY": ""}
    env = {**ours, **no_service, "PYTHONPATH": str(REPOSITORY), "MXWORKER_HTTP": "127.0.0.1:0"}
    with Shell(tmp_path, env) as shell:
        shell.run(sys.executable, "-m mxworker dev app")
        start = shell.wait_for(f"s. {HINT}")
        assert "DEBUG" not in start  # how mxworker works interests few
        assert f"watching    {tmp_path}\n" in start
        assert "consuming   orders  order()  concurrency 32" in start
        assert "consuming   codes   code()   concurrency 32" in start
        shell.type("p")
        shell.wait_for('published to orders: {"id":1,"note":"text"}')
        shell.wait_for("nothing published to codes: there is no sample of Coded: code: no text is made up that matches")
        shell.wait_for('published to mails: {"to":"text"}')
        wait_until(lambda: said(tmp_path / "handled"), 60, "the sample to be handled")
        assert said(tmp_path / "handled") == "Order(id=1, note='text')"
        wait_until(lambda: "DEBUG   mxworker.worker.handling" in shell.screen(), 20, "the line about the message")
        shell.type("o")
        shell.wait_for("\nhttp://127.0.0.1:")
        wait_until(lambda: "mail to TEXT" in shell.screen(), 20, "the other sample to be handled")
        shell.type("q")
        shell.wait_for("stopped with exit code 0: 2 acked\n")
        assert exit_code(shell) == 0
