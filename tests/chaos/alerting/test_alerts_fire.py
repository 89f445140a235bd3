"""The alert rules in a real Prometheus that scrapes a real service under each fault.

Under each fault the alert fires that names it, and no other. The rules look at windows that are `TIMES` times shorter
than those that we ship, and are the same otherwise.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from shutil import copy

import pytest

from tests.chaos.alerting import app
from tests.chaos.alerting.stage import FAULTS, Stage, Traffic
from tests.harness.dashboard import expressions
from tests.harness.prometheus import Prometheus, faster
from tests.harness.proxy import proxy_to
from tests.harness.repository import REPOSITORY
from tests.harness.service import Service, mxworker_run
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client
from tests.rabbit.node import Node
from tests.rabbit.ports import free_port

RULES = (REPOSITORY / "conf" / "prometheus" / "alerts.yml").read_text()
TIMES = 30
CALM_S = 15
"""The service works for so long before the fault."""
FAULTY_S = 50
"""A fault lasts for so long at least: longer than the longest window of a rule with its `for`, 10 m + 10 m."""
SOON_S = 120.0
FROM_START = "1h"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    with Prometheus(tmp_path_factory.mktemp("prometheus"), faster(RULES, TIMES)) as server:
        yield server


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of the tests' own, which they stop and alarm."""
    node = Node(tmp_path_factory.mktemp("alerting"))
    node.start()
    yield node
    node.stop()


@contextmanager
def service_of(directory: Path, url: str, port: int, *flags: str) -> Iterator[Service]:
    copy(app.__file__, directory / "app.py")
    command = mxworker_run("app:handlers", f"--http=127.0.0.1:{port}", "--log-format=json", *flags, app_dir=directory)
    environment = {"MXWORKER_BROKER_URL": url, "CRASHING": str(directory / "crashing")}
    with Service(command, directory, env=environment) as service:
        yield service


@pytest.fixture
def stage(node: Node, prometheus: Prometheus, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A service that has worked for a while, as Prometheus has seen."""
    job, port = request.node.callspec.params["fault"], free_port()
    with ExitStack() as stack:
        proxy = stack.enter_context(proxy_to(node.url))
        service = stack.enter_context(service_of(tmp_path, proxy.url(), port, "--workers=3"))
        service.wait_ready()
        traffic = stack.enter_context(Traffic(node.url))
        prometheus.watch(job, f"127.0.0.1:{port}")
        stack.callback(prometheus.forget, job)
        wait_until(lambda: prometheus.samples(job) >= CALM_S, SOON_S, "a working service")
        yield Stage(node, proxy, service, traffic, tmp_path / "crashing")
    with Client(node.url) as client:
        for queue in (app.WORK, app.OUT):
            for kind in ("", ".dlq", ".quarantine", f".retry.{app.RETRY_AFTER_S * 1000}"):
                client.delete(queue + kind)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_alert_of_the_fault_fires_and_no_other(fault: str, stage: Stage, prometheus: Prometheus) -> None:
    alert, begin = FAULTS[fault]
    assert prometheus.firing(fault, FROM_START) == set()
    due = {f"Mxworker{alert}"} if alert else set()
    with contextmanager(begin)(stage):
        enough = prometheus.samples(fault) + FAULTY_S
        wait_until(lambda: due <= prometheus.firing(fault, FROM_START), SOON_S, f"{due}")
        texts = prometheus.texts(fault)
        assert bool(texts) == bool(due)
        assert not [text for text in texts if "<no value>" in text or "<error" in text]
        wait_until(lambda: prometheus.samples(fault) >= enough, SOON_S, "the others to have had the time")
        assert prometheus.firing(fault, FROM_START) == due


def test_service_that_never_becomes_ready(prometheus: Prometheus, tmp_path: Path) -> None:
    job, port = "never ready", free_port()
    nobody = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    with service_of(tmp_path, nobody, port, "--workers=2", "--connect-wait=1h"):
        prometheus.watch(job, f"127.0.0.1:{port}")
        wait_until(lambda: prometheus.firing(job, FROM_START), SOON_S, "an alert")
        wait_until(lambda: prometheus.samples(job) >= FAULTY_S, SOON_S, "the others to have had the time")
        assert prometheus.firing(job, FROM_START) == {"MxworkerNeverReady"}
    prometheus.forget(job)


# ---- after all faults


@pytest.fixture
def seen(prometheus: Prometheus) -> Prometheus:
    """A Prometheus that has seen all faults."""
    missing = [fault for fault in FAULTS if not prometheus.samples(fault)]
    if missing:
        pytest.skip(f"only a run of all faults has all series; missing: {missing}")
    return prometheus


def test_no_rule_has_an_error(seen: Prometheus) -> None:
    assert {(rule["name"], rule["health"], rule.get("lastError", "")) for rule in seen.rules()} == {
        (name, "ok", "") for name in re.findall(r"alert: (\w+)", RULES)
    }


@pytest.mark.parametrize("panel", expressions())
def test_expression_of_the_dashboard_returns_series(panel: str, seen: Prometheus) -> None:
    asked = expressions("10s")[panel]
    now = time.time()
    series = seen.ask(asked, start=now - 3600, end=now, step=5)
    values = [value for each in series for _, value in each["values"]]
    assert any(value != "NaN" for value in values), asked


def test_every_series_that_is_asked_for_exists(seen: Prometheus) -> None:
    asked = "\n".join([RULES, *expressions().values()])
    names = set(re.findall(r"\bmxworker_\w+", asked))
    now = time.time()
    missing = {name for name in names if not seen.ask(f"count_over_time({name}[1h])", time=now)}
    assert missing == set()
