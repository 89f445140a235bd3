"""What a service is called that was given no name, and which one `mxworker status` and `ctl` mean without one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness.service import Service, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.ports import free_port

APP = """
    from mxworker import Handlers

    handlers = Handlers()


    @handlers.consume("orders")
    async def order(payload: dict) -> None:
        pass
"""

Begin = Callable[..., Service]


class Operator:
    """Somebody with a shell, whose session has a runtime directory."""

    def __init__(self, runtime: Path) -> None:
        self.env = {"XDG_RUNTIME_DIR": str(runtime)}

    def __call__(self, *arguments: str, cwd: Path, name: str | None = None) -> subprocess.CompletedProcess[str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MXWORKER_", "RUNTIME_DIR"))}
        env = {**kept, **self.env} | ({"MXWORKER_NAME": name} if name else {})
        command = [sys.executable, "-m", "mxworker", *arguments]
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False)

    def pid_of(self, *arguments: str, cwd: Path) -> int:
        """Return the process of the service that `status` tells of."""
        ended = self("status", "--json", *arguments, cwd=cwd)
        assert ended.returncode == 0, ended.stderr
        return int(json.loads(ended.stdout)["pid"])


@pytest.fixture
def operator() -> Iterator[Operator]:
    with tempfile.TemporaryDirectory(prefix="mx-") as runtime:
        yield Operator(Path(runtime))


@pytest.fixture
def begin(operator: Operator, tmp_path: Path) -> Iterator[Begin]:
    """`begin(directory, ...)` runs the app that is there, from there, without a broker, until it can be asked."""
    with ExitStack() as running:

        def start(directory: Path, *flags: str) -> Service:
            directory.mkdir(parents=True, exist_ok=True)
            app = write_app(directory, APP)
            url = f"--broker-url=amqp://127.0.0.1:{free_port()}/"
            command = [sys.executable, "-m", "mxworker", "run", app, "--workers=1", "--connect-wait=9m", url, *flags]
            service = running.enter_context(Service(command, directory, env=operator.env))
            wait_until(lambda: "no broker at" in service.log_text(), 30, f"the start of {service!r}")
            return service

        yield start


def test_same_app_in_two_directories_is_two_services_and_each_is_meant_in_its_own(
    begin: Begin, operator: Operator, tmp_path: Path
) -> None:
    places = [tmp_path / "shop", tmp_path / "mail"]
    services = [begin(place) for place in places]
    assert [operator.pid_of(cwd=place) for place in places] == [service.pid for service in services]
    ended = operator("status", cwd=tmp_path)
    assert ended.returncode == 2
    assert all(f"{place.name}/app:handlers in {place}" in ended.stderr for place in places)
    assert operator.pid_of("--name=mail/app:handlers", cwd=tmp_path) == services[1].pid
    assert operator("ctl", "stop", cwd=places[0]).returncode == 0
    assert services[0].wait_exit() == 0
    assert services[1].exit_code is None


def test_directories_of_one_name_do_not_collide(begin: Begin, operator: Operator, tmp_path: Path) -> None:
    places = [tmp_path / "a" / "shop", tmp_path / "b" / "shop"]
    services = [begin(place) for place in places]
    assert [operator.pid_of(cwd=place) for place in places] == [service.pid for service in services]
    named = "--name=shop/app:handlers"
    assert [operator.pid_of(named, cwd=place) for place in places] == [service.pid for service in services]
    ended = operator("ctl", named, "stop", cwd=tmp_path)
    assert ended.returncode == 2
    for place in places:
        assert f"shop/app:handlers in {place}: --control-socket " in ended.stderr


def test_service_of_another_directory_is_never_meant_without_a_name(
    begin: Begin, operator: Operator, tmp_path: Path
) -> None:
    service = begin(tmp_path / "shop")
    for command in (("status",), ("ctl", "stop")):
        ended = operator(*command, cwd=tmp_path)
        assert ended.returncode == 1
        assert (
            f"no service of this directory runs. One of another directory does:\n  shop/app:handlers in {tmp_path}"
            in (ended.stderr)
        )
        assert "Say that it is meant with --name shop/app:handlers" in ended.stderr
    assert service.exit_code is None


def test_directory_may_have_any_bytes_in_its_name(begin: Begin, operator: Operator, tmp_path: Path) -> None:
    place = tmp_path / os.fsdecode(b"shop\xff")
    service = begin(place)
    assert operator.pid_of(cwd=place) == service.pid


def test_service_with_a_name_of_its_own_is_meant_everywhere(begin: Begin, operator: Operator, tmp_path: Path) -> None:
    service = begin(tmp_path / "shop", "--name=shop")
    assert operator.pid_of(cwd=tmp_path) == service.pid


def test_name_in_a_configuration_file_is_that_of_its_directory(
    begin: Begin, operator: Operator, tmp_path: Path
) -> None:
    places = [tmp_path / "shop", tmp_path / "mail"]
    for place in places:
        place.mkdir()
        (place / "mxworker.toml").write_text(f'name = "{place.name} service"\n')
    services = [begin(place) for place in places]
    assert [operator.pid_of(cwd=place) for place in places] == [service.pid for service in services]
    (places[0] / "mxworker.toml").write_text("nam = 1\n")
    told = operator("status", cwd=places[0]).stderr
    assert "Warning: mxworker.toml, line 1: there is no setting 'nam'; did you mean 'name'?" in told
    assert "several services run here" in told


def test_directory_of_the_app_and_the_one_of_the_start_both_mean_the_service(
    begin: Begin, operator: Operator, tmp_path: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    write_app(code, APP)
    service = begin(tmp_path / "start", f"--app-dir={code}")
    assert operator.pid_of("--name=code/app:handlers", cwd=tmp_path) == service.pid
    assert operator.pid_of(cwd=code) == operator.pid_of(cwd=tmp_path / "start") == service.pid


def test_second_start_says_how_to_stop_the_first(begin: Begin, operator: Operator, tmp_path: Path) -> None:
    first = begin(tmp_path / "shop")
    url = "--broker-url=amqp://127.0.0.1:1/"
    ended = operator("run", "app:handlers", url, "--log-format=text", cwd=tmp_path / "shop")
    assert ended.returncode == 2
    assert f"another mxworker (process {first.pid}) already runs under this name" in ended.stderr
    advice = "mxworker ctl --name shop/app:handlers stop"
    assert f"  Stop it with:  {advice}\n" in ended.stderr
    assert operator(*advice.split()[1:], cwd=tmp_path).returncode == 0
    assert first.wait_exit() == 0


def test_second_start_at_a_place_of_its_own_says_that_place(begin: Begin, operator: Operator, tmp_path: Path) -> None:
    first = begin(tmp_path / "shop", "--control-socket=s.sock")
    url = "--broker-url=amqp://127.0.0.1:1/"
    ended = operator("run", "app", url, "--control-socket=s.sock", "--log-format=text", cwd=tmp_path / "shop")
    advice = "mxworker ctl --control-socket s.sock stop"
    assert f"  Stop it with:  {advice}\n" in ended.stderr
    assert operator(*advice.split()[1:], cwd=tmp_path / "shop").returncode == 0
    assert first.wait_exit() == 0


def test_name_that_is_typed_counts_more_than_the_variable(begin: Begin, operator: Operator, tmp_path: Path) -> None:
    service = begin(tmp_path / "shop", "--name=shop")
    for command in (("ctl", "--name=shop", "dump"), ("ctl", "dump", "--name=shop")):
        assert operator(*command, cwd=tmp_path, name="nobody").returncode == 0
    assert operator("ctl", "dump", cwd=tmp_path, name="nobody").returncode == 1
    assert operator("ctl", "stop", cwd=tmp_path, name="shop").returncode == 0
    assert service.wait_exit() == 0
