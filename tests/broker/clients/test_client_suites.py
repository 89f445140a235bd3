"""The test suites of aio-pika and aiormq pass on the embedded broker as they do on RabbitMQ, test by test.

The source distributions come from the package index, with what their tests need, into an environment of their own. Only
tests that pass on RabbitMQ here are wanted: some need Docker itself, or another host. Under --full only: a suite takes
minutes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mxworker.devbroker.process import BrokerProcess
from tests.rabbit.node import Node

SUITES = {"aio_pika": "aio-pika==10.2.1", "aiormq": "aiormq==7.2.4"}
NEEDED = ("aiomisc", "aiomisc-pytest", "pytest", "shortuuid", "timeout-decorator")
OPTIONS = ["-p", "broker_stand_in", "-p", "no:cacheprovider", "-o", "log_cli=false", "-q", "-rA", "--tb=no"]
TIMEOUT_S = 3600
AGAIN = 3
_OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED) (tests/\S+::.*?)(?: - .*)?$", re.MULTILINE)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder with the unpacked distributions and `venv`, the Python that runs their tests."""
    if not request.config.getoption("--full"):
        pytest.skip("takes many minutes: --full runs it")
    folder = tmp_path_factory.mktemp("clients")
    venv.create(folder / "venv", with_pip=True)
    pip = [folder / "venv/bin/python", "-m", "pip", "--quiet"]
    try:
        _run([*pip, "install", *SUITES.values(), *NEEDED], folder)
        _run([*pip, "download", "--no-deps", f"--no-binary={','.join(SUITES)}", *SUITES.values()], folder)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the package index does not have it: {error.stderr[-500:]}")
    for archive in folder.glob("*.tar.gz"):
        _run(["tar", "xzf", archive], folder)
    return folder


def _run(command: list[object], folder: Path) -> None:
    subprocess.run([str(part) for part in command], cwd=folder, check=True, capture_output=True, text=True)


@pytest.mark.alone
@pytest.mark.parametrize("suite", SUITES)
def test_what_passes_on_rabbitmq_passes(suite: str, environment: Path, node: Node, embedded: BrokerProcess) -> None:
    with node.expect_precondition_failed():
        on_rabbitmq = passed(suite, environment, node.url)
    on_ours = passed(suite, environment, embedded.url)
    for _ in range(AGAIN):  # what depends on the machine's speed or on the garbage collector gets another chance
        if missing := sorted(on_rabbitmq - on_ours):
            on_ours |= passed(suite, environment, embedded.url, *missing)
    print(f"{suite}: {len(on_rabbitmq)} tests pass on RabbitMQ, {len(on_rabbitmq & on_ours)} of them here")
    assert len(on_rabbitmq) > 200
    assert sorted(on_rabbitmq - on_ours) == []


def passed(suite: str, folder: Path, url: str, *tests: str) -> set[str]:
    """Run a suite, or some of its tests, against a broker; return the ids that passed."""
    (home,) = folder.glob(f"{suite}-*/")
    (certificates,) = folder.glob("aiormq-*/tests/certs")
    done = subprocess.run(
        [folder / "venv/bin/python", "-m", "pytest", *OPTIONS, *(tests or ["tests"])],
        cwd=home,
        env={
            **os.environ,
            "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{home}",
            "STAND_IN_PORT": str(urlsplit(url).port),
            "STAND_IN_CERTS": str(certificates),
        },
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return {test for outcome, test in _OUTCOME.findall(done.stdout) if outcome == "PASSED"}
