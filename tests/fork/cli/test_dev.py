"""`mxworker dev`: what the outer process does with files, signals and the ends of a service.

Most tests give it a made-up service, `outer_program`; the last ones a real one that finds no broker.
"""

from __future__ import annotations

import os
import pty
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fork.cli.outer_program import LEAVES_WITH
from tests.harness.saving import save_by_rename
from tests.harness.scales import among
from tests.harness.service import Service
from tests.harness.waiting import wait_until
from tests.rabbit.ports import free_port

Develop = Callable[..., Service]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """The file whose first line is what the service does."""
    folder = tmp_path / "app"
    folder.mkdir()
    return folder / "app.py"


@pytest.fixture
def develop(app: Path, tmp_path: Path) -> Iterator[Develop]:
    """`develop("serve", "--option", ...)` starts the outer process with such a service."""
    with ExitStack() as running:

        def begin(behaviour: str, *options: str) -> Service:
            app.write_text(f"# {behaviour}\n")
            command = [sys.executable, "-m", "tests.fork.cli.outer_program", "outer", str(app.parent), *options]
            service = running.enter_context(Service(command, tmp_path))
            service.wait_for_log(f"service: started to {behaviour}")
            return service

        yield begin


@pytest.fixture
def develop_serving(develop: Develop) -> Develop:
    """Start it and wait until the service serves."""

    def begin(*options: str) -> Service:
        service = develop("serve", *options)
        service.wait_for_log("service: serves")
        return service

    return begin


def test_saved_file_is_named_and_reloads_the_service(develop_serving: Develop, app: Path) -> None:
    service = develop_serving()
    app.write_text("# serve better\n")
    service.wait_for_log("app.py changed; reloading")
    service.wait_for_log("service: got SIGHUP")
    assert service.log_text().count("service: started") == 1


def test_file_saved_by_a_rename_reloads_the_service(develop_serving: Develop, app: Path) -> None:
    service = develop_serving()
    save_by_rename(app, "# serve better\n")
    service.wait_for_log("service: got SIGHUP")


@pytest.mark.parametrize(
    "name", among(["new.py", "package/deep/module.py", "mxworker.toml", "pyproject.toml"], "new.py", "pyproject.toml")
)
def test_new_module_and_configuration_reload_the_service(develop: Develop, app: Path, name: str) -> None:
    file = app.parent / name
    file.parent.mkdir(parents=True, exist_ok=True)
    service = develop("serve")
    service.wait_for_log("service: serves")
    file.write_text("")
    service.wait_for_log("service: got SIGHUP")
    assert f"{name} changed; reloading" in service.log_text()


def change(app: Path, service: Service, at: str, leads_to: str) -> None:
    """Change the app when the log says `at`, and wait until it says what that leads to."""
    service.wait_for_log(at)
    app.write_text("# serve\n")
    service.wait_for_log(leads_to)


def test_files_that_are_no_source_of_the_app_change_nothing(develop: Develop, app: Path) -> None:
    names = [
        "__pycache__/app.cpython-311.pyc",
        "__pycache__/app.py",
        ".git/hook.py",
        ".venv/lib/module.py",
        "venv/lib/module.py",
        "lib/site-packages/pyproject.toml",
        ".app.py.swp",
        "app.py~",
        ".#app.py",
        "4913",
        "orders.txt",
    ]
    ignored = [app.parent / name for name in names]
    for file in ignored:
        file.parent.mkdir(parents=True, exist_ok=True)
    service = develop("serve")
    service.wait_for_log("service: serves")
    for file in ignored:
        file.write_text("")
    save_by_rename(app, "# serve better\n")  # a file that is half written would be a change too
    service.wait_for_log("app.py changed; reloading")
    assert service.log_text().count("changed") == 1


def test_service_that_ended_by_itself_is_started_by_the_next_change_and_not_before(develop: Develop, app: Path) -> None:
    service = develop("fails")
    ended = "the service ended with exit code 3; the next change starts it again"
    change(app, service, at=ended, leads_to="service: serves")
    assert "app.py changed; starting the service" in service.log_text()
    assert service.log_text().count("service: started") == 2


def test_change_during_a_start_that_fails_is_not_forgotten(develop: Develop, app: Path) -> None:
    service = develop("fails_after_hup")
    change(app, service, at="service: loads", leads_to="service: serves")
    assert "started to fails_after_hup" in service.log_text()


def test_service_that_served_and_ended_waits_for_a_change(develop: Develop, app: Path) -> None:
    service = develop("leaves_after_hup")
    ended = "the service ended with exit code 0; the next change starts it again"
    change(app, service, at="service: loads", leads_to=ended)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_signal_that_stops_is_passed_on_and_the_services_exit_code_is_ours(
    develop_serving: Develop, signum: signal.Signals
) -> None:
    service = develop_serving()
    service.signal(signum)
    assert service.wait_exit() == LEAVES_WITH
    assert f"service: got {signum.name}" in service.log_text()


def test_ctrl_c_reaches_the_service_once(develop: Develop) -> None:
    keyboard, terminal = pty.openpty()
    service = develop("drains", f"--terminal={os.ttyname(terminal)}")
    service.wait_for_log("service: serves")
    os.write(keyboard, b"\x03")
    service.wait_for_log("service: got SIGINT")
    service.signal(signal.SIGUSR1)  # passed on after what is passed on of the SIGINT
    assert service.wait_exit() == LEAVES_WITH
    assert service.log_text().count("service: got SIGINT") == 1
    for fd in (keyboard, terminal):
        os.close(fd)


@pytest.mark.parametrize("signum", among([signal.SIGHUP, signal.SIGUSR1], signal.SIGHUP))
def test_other_signals_are_passed_on_and_end_nothing(develop_serving: Develop, signum: signal.Signals) -> None:
    service = develop_serving()
    service.signal(signum)
    service.wait_for_log(f"service: got {signum.name}")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == LEAVES_WITH


def test_signal_does_not_end_a_service_on_its_way_up(develop: Develop) -> None:
    service = develop("comes_up_slowly")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == LEAVES_WITH


def test_stop_without_a_service_ends_with_its_last_exit_code(develop: Develop) -> None:
    service = develop("fails")
    service.wait_for_log("the service ended")
    service.signal(signal.SIGTERM)
    assert service.wait_exit() == 3


# ---- the real service


BROKEN = """
from mxworker import Handlers

handlers = Handlers()
raise RuntimeError("version 1")
"""
WORKING = """
from mxworker import Handlers

handlers = Handlers()


@handlers.consume("orders")
async def order(payload: dict) -> None:
    pass
"""


@pytest.fixture
def develop_really(tmp_path: Path) -> Iterator[Develop]:
    """`develop_really(source, "--option", ...)` runs `mxworker dev` for an app.py, with a broker that is not there."""
    with ExitStack() as running:

        def begin(source: str, *options: str, **env: str) -> Service:
            (tmp_path / "app.py").write_text(source)
            url = f"amqp://me:S3cr3t@127.0.0.1:{free_port()}/"
            command = [sys.executable, "-m", "mxworker", "dev", "app", f"--broker-url={url}", *options]
            return running.enter_context(Service(command, tmp_path, env=env))

        yield begin


def test_app_that_cannot_be_loaded_is_shown_and_tried_again_when_it_is_saved(
    develop_really: Develop, tmp_path: Path
) -> None:
    service = develop_really(BROKEN, "--log-level=debug")
    service.wait_for_log("the service ended with exit code 3")
    assert '  app.py:5  raise RuntimeError("version 1")    RuntimeError: version 1\n' in service.log_text()
    (tmp_path / "app.py").write_text(WORKING)
    service.wait_for_log("BOOTING -> CONNECTING")


def test_edit_of_equal_size_within_the_second_is_seen(develop_really: Develop, tmp_path: Path) -> None:
    """Of a cached file Python compares the source's size and its mtime in whole seconds."""
    app = tmp_path / "app.py"
    service = develop_really(BROKEN, PYTHONDONTWRITEBYTECODE="")  # as in most shells
    service.wait_for_log("RuntimeError: version 1")
    service.wait_for_log("the service ended")
    times_ns = (app.stat().st_atime_ns, app.stat().st_mtime_ns)
    app.write_text(BROKEN.replace("1", "2"))
    os.utime(app, ns=times_ns)
    service.wait_for_log("RuntimeError: version 2")


def test_settings_of_flags_and_variables_reach_the_service_without_the_password(develop_really: Develop) -> None:
    service = develop_really(
        WORKING, "--log-level=debug", "--handler-timeout=90s", "--broker-shuffle", MXWORKER_WORKERS="2"
    )
    service.wait_for_log("worker 2 BOOTING -> CONNECTING")
    assert "workers     2 (set)" in service.log_text()
    assert "broker      amqp://me:***@127.0.0.1:" in service.log_text()
    assert "(shuffled)" in service.log_text()
    titles = [Path(f"/proc/{process.pid}/cmdline").read_bytes() for process in service.survivors()]
    assert len(titles) == 4
    assert not any(b"S3cr3t" in title for title in titles)


def test_broker_that_is_down_is_waited_for(develop_really: Develop) -> None:
    service = develop_really(WORKING)
    service.wait_for_log("cannot connect: connection refused; trying again until it is there")
    assert "trying for" not in service.log_text()
    assert service.exit_code is None


def test_no_service_outlives_a_killed_outer_process(develop_really: Develop) -> None:
    service = develop_really(WORKING, "--workers=2", "--log-level=debug")
    service.wait_for_log("worker 2 BOOTING -> CONNECTING")
    service.signal(signal.SIGKILL)
    service.wait_exit()
    wait_until(lambda: not service.survivors(), 3.0, "the end of all processes")
