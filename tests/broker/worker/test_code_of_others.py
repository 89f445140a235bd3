"""Code that other users come to be able to change while a service runs: a reload refuses it, what served goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from signal import SIGHUP

import pytest

from tests.harness.service import Service, write_app

APP = """
    from mxworker import Handlers

    import helper

    handlers = Handlers()


    @handlers.consume("QUEUE")
    async def record(message_id: str) -> None:
        pass


    @handlers.consume("QUEUE.cpu", cpu=True)
    def compute(message_id: str) -> None:
        pass
"""


@pytest.fixture
def folder(tmp_path: Path, queue_name: str) -> Path:
    write_app(tmp_path, APP.replace("QUEUE", queue_name))
    (tmp_path / "helper.py").touch()
    return tmp_path


@pytest.mark.parametrize("file", ["app.py", "helper.py"])
@pytest.mark.parametrize("name", ["run", "dev"])
def test_reload_refuses_code_that_everybody_could_change(name: str, file: str, folder: Path, broker_url: str) -> None:
    command = [sys.executable, "-P", "-m", "mxworker", name, "app", "--workers=1", "--log-format=text"]
    with Service(command, folder, env={"MXWORKER_BROKER_URL": broker_url}) as service:
        service.wait_ready()
        (folder / file).chmod(0o666)
        if name == "run":
            service.signal(SIGHUP)
        else:
            (folder / file).write_text(f"{(folder / file).read_text()}\n")
        service.wait_for_log(f"everybody on this machine may write to '{folder / file}'")
        assert service.mxworker("status", "--healthy").stdout == "healthy\n"
        (folder / file).chmod(0o644)
        service.signal(SIGHUP)
        service.wait_for_log("reload: all workers are of generation")  # `dev` has noticed the mode, too
