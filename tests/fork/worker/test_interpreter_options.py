"""The processes of `cpu=True` handlers run under the options of their worker's interpreter, and so does `dev`'s."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.repository import REPOSITORY
from tests.harness.scales import among

SHOWN = "[list(sys.flags), sys.warnoptions, dict(sys._xoptions), sys.__stdout__.write_through]"

WORKER = f"""
import asyncio, json, sys
from pathlib import Path
from tests.harness.cpu import cpu

APP = '''
    import json
    import sys
    from mxworker import Handlers, Reject

    handlers = Handlers()
    sys.path.insert(1, "/inserted/by/the/app")

    @handlers.consume("options", cpu=True)
    def options(body: bytes) -> None:
        raise Reject(json.dumps({SHOWN}))

    @handlers.consume("path", cpu=True)
    def path(body: bytes) -> None:
        raise Reject(json.dumps(sys.path))
'''

async def main():
    async with cpu(Path(sys.argv[1]), APP, size=1) as app:
        there = [json.loads(await app.tell(what)) for what in ("options", "path")]
        print(json.dumps([{SHOWN}, there[0], sys.path, there[1]]))

asyncio.run(main())
"""

OPTIONS = [
    [],
    ["-O"],
    ["-OO", "-B", "-q", "-bb"],
    ["-X", "dev", "-W", "error::UserWarning", "-W", "ignore:a, b:FutureWarning"],
    ["-X", "utf8=0", "-X", "int_max_str_digits=5000", "-X", "mine=a b", "-X", "faulthandler"],
    ["-s", "-P", "-u"],
    ["-E"],
    ["-I"],
]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), **more}


def output(*command: str, cwd: Path, env: dict[str, str]) -> str:
    run = subprocess.run([sys.executable, *command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("options", among(OPTIONS, *OPTIONS[:1], *OPTIONS[2:5], OPTIONS[-1]), ids=" ".join)
def test_process_for_cpu_handlers_runs_under_the_options_of_its_worker(options: list[str], tmp_path: Path) -> None:
    program = f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}]\n{WORKER}"
    worker, member, path, path_there = json.loads(
        output(*options, "-c", program, str(tmp_path), cwd=tmp_path, env=environment())
    )
    (flags, *rest), (flags_there, *rest_there) = worker, member
    assert flags_there == [*flags[:SAFE_PATH], True, *flags[SAFE_PATH + 1 :]]
    assert [deduplicated(rest_there[0]), *rest_there[1:]] == [deduplicated(rest[0]), *rest[1:]]
    assert path_there == path


SAFE_PATH = next(index for index, flag in enumerate(sys.flags) if flag is sys.flags.safe_path and index > 15)


def deduplicated(filters: list[str]) -> list[str]:
    """What -X dev and -b add comes twice; the last of equal filters counts."""
    return list(dict.fromkeys(filters[::-1]))


def test_options_of_the_environment_arrive_too(tmp_path: Path) -> None:
    env = environment(PYTHONOPTIMIZE="1", PYTHONWARNINGS="error::UserWarning", PYTHONDEVMODE="1")
    worker, member, *_ = json.loads(output("-c", WORKER, str(tmp_path), cwd=tmp_path, env=env))
    assert member[0][3] == worker[0][3] == 1
    assert "error::UserWarning" in member[1]


SHADOWED = ["json", "types", "queue", "logging", "asyncio", "socket", "signal", "mxworker", "orjson", "setproctitle"]


def shadow(folder: Path) -> Path:
    """Put modules called like others into a folder; return the file that says which were imported."""
    told = folder / "imported"
    for name in SHADOWED:
        (folder / f"{name}.py").write_text(f"open({str(told)!r}, 'a').write({name!r})\nraise ImportError")
    return told


def test_process_for_cpu_handlers_imports_nothing_from_the_current_directory(tmp_path: Path) -> None:
    elsewhere, home = tmp_path / "elsewhere", tmp_path / "home"
    elsewhere.mkdir()
    home.mkdir()
    told = shadow(elsewhere)
    start = f"import os; os.chdir({str(elsewhere)!r}); sys.path.remove(''); asyncio.run(main())"
    output("-c", WORKER.replace("asyncio.run(main())", start), str(home), cwd=home, env=environment())
    assert not told.exists()


def test_module_run_of_the_command_imports_nothing_from_the_current_directory_after_its_start(tmp_path: Path) -> None:
    """What `-m` itself and the package import before is out of our hands: there `-P` helps."""
    for name in ("click", "setproctitle", "app"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    assert "Usage" in output("-m", "mxworker", "run", "--help", cwd=tmp_path, env=environment())
    run = subprocess.run(
        [sys.executable, "-m", "mxworker", "run", "app", "--broker-url", "amqp://127.0.0.1:1/", "--workers=1"],
        cwd=tmp_path,
        env=environment(XDG_RUNTIME_DIR=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 3, run.stderr
    assert "SystemExit: the wrong one" in run.stderr, "the application is found there nevertheless"
