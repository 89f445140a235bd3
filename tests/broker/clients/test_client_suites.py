"""The test suites of other clients pass on the embedded broker as they do on RabbitMQ, test by test.

Those of Python come from the package index, with what their tests need, into an environment of their own. That of Go
is in Debian's package. Only tests that pass on RabbitMQ are wanted: some need Docker itself, or another host. A suite
takes minutes, so all run under --full only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mxworker.devbroker.process import BrokerProcess
from tests.broker.clients.conftest import GO_PATH, SUITES, go_environment, install
from tests.harness.scales import FULL_ONLY
from tests.rabbit.node import Node

OPTIONS = ["-p", "broker_stand_in", "-p", "no:cacheprovider", "-o", "log_cli=false", "-q", "-rA", "--tb=no"]
TIMEOUT_S = 3600
AGAIN = 3
TESTS = {"kombu": "t/integration/test_py_amqp.py", "amqp": "t/integration/test_rmq.py"}  # of the others all
LEAST = {"aio_pika": 1000, "aiormq": 200, "kombu": 40, "amqp": 10}
_OUTCOME = re.compile(r"^(PASSED|FAILED|ERROR|SKIPPED) (t(?:ests)?/\S+::.*?)(?: - .*)?$", re.MULTILINE)

_GO_PASS = re.compile(r"^ *--- PASS: (\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Path:
    """A folder with the unpacked distributions."""
    folder = tmp_path_factory.mktemp("clients")
    only = f"--no-binary={','.join(SUITES)}"  # not of the tools that build them
    install([python, "-m", "pip", "--quiet", "download", "--no-deps", only, *SUITES.values()], folder)
    for archive in folder.glob("*.tar.gz"):
        install(["tar", "xzf", archive], folder)
    return folder


@pytest.mark.alone
@pytest.mark.parametrize("suite", SUITES)
def test_what_passes_on_rabbitmq_passes(
    suite: str, python: Path, sources: Path, node: Node, embedded: BrokerProcess
) -> None:
    def passed_on(url: str, *tests: str) -> set[str]:
        return passed(
            [str(python), "-m", "pytest", *OPTIONS, *(tests or [TESTS.get(suite, "tests")])], suite, sources, url
        )

    with node.expect_precondition_failed(lambda: 0):  # that of aio-pika does
        on_rabbitmq = passed_on(node.url)
    on_ours = passed_on(embedded.url)
    for _ in range(AGAIN):  # what depends on the machine's speed or on the garbage collector gets another chance
        if missing := sorted(on_rabbitmq - on_ours):
            on_ours |= passed_on(embedded.url, *missing)
    print(f"{suite}: {len(on_rabbitmq)} tests pass on RabbitMQ, {len(on_rabbitmq & on_ours)} of them here")
    assert len(on_rabbitmq) >= LEAST[suite]
    assert sorted(on_rabbitmq - on_ours) == []


@FULL_ONLY
def test_what_passes_on_rabbitmq_passes_in_go(tmp_path: Path, node: Node, embedded: BrokerProcess) -> None:
    library = "github.com/rabbitmq/amqp091-go"
    env = {**os.environ, **go_environment(library), "GOCACHE": str(tmp_path)}
    home = GO_PATH / "src" / library
    suite = tmp_path / "suite"
    subprocess.run(["go", "test", "-c", "-tags=integration", "-o", suite, "."], cwd=home, env=env, check=True)

    def passed_on(url: str) -> set[str]:
        done = subprocess.run(
            [suite, "-test.v"],
            cwd=home,
            env={**env, "AMQP_URL": url},
            stdout=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return set(_GO_PASS.findall(done.stdout))

    with node.expect_precondition_failed(lambda: 0):
        on_rabbitmq = passed_on(node.url)
    assert len(on_rabbitmq) > 100
    assert sorted(on_rabbitmq - passed_on(embedded.url)) == []


def passed(command: list[str], suite: str, folder: Path, url: str) -> set[str]:
    """Run tests of a suite against a broker; return the ids that passed."""
    (home,) = folder.glob(f"{suite}-*/")
    (certificates,) = folder.glob("aiormq-*/tests/certs")
    port = str(urlsplit(url).port)
    done = subprocess.run(
        command,
        cwd=home,
        env={
            **os.environ,
            "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{home}",
            "STAND_IN_PORT": port,
            "STAND_IN_CERTS": str(certificates),
            "RABBITMQ_5672_TCP": port,
        },
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return {test for outcome, test in _OUTCOME.findall(done.stdout) if outcome == "PASSED"}
