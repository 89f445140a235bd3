"""Each leaf of the settings tree reaches the object that uses it, from the command line on."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mxworker import Handlers, PoolSettings, PublisherSettings
from mxworker.api.compilation import Handler
from mxworker.api.handlers import settings_in
from mxworker.backoff import Backoff
from mxworker.board.page import Board
from mxworker.brokers import Brokers
from mxworker.cli import settings
from mxworker.cli.config.options import LEAVES
from mxworker.cli.run import run
from mxworker.config.process import Consumption, Supervision
from mxworker.master.fleet import Fleet
from mxworker.payloads.compression import Compression
from mxworker.worker.assembly import assemble
from mxworker.worker.cpu.protocol import MemberSettings
from mxworker.worker.loading import select
from mxworker.worker.service import Service
from tests.harness.parsing import parsed
from tests.harness.repository import REPOSITORY

FLAGS = (
    "--broker-url=amqps://a/,amqps://b/".replace(",", " --broker-url="),
    "--broker-shuffle --broker-heartbeat=7s --tls-cert={pem} --tls-ca={pem} --tls-key={pem} --connect-wait=8s",
    "--queues=a,b,batch --exclude-queues=b --app-dir={place} --insecure-app-dir --burst",
    "--workers=3 --process-concurrency=9 --prefetch-budget=5MB --concurrency=5 --prefetch=31/workers",
    "--max-retries=6 --on-error=reject --batch-size=8 --batch-wait=9s",
    "--handler-timeout=11s --max-body-size=4MB --drain-timeout=12s --max-messages=1000000 --max-rss=1GB --max-age=1h",
    "--quarantine-after=6 --publisher-channels=5 --publisher-max-in-flight=77 --publisher-overflow=drop",
    "--publisher-when-blocked=raise --publisher-timeout=13s --publisher-drain-timeout=14s --publisher-attempts=15",
    "--publisher-retry-base=16ms --publisher-retry-cap=17s --publisher-retry-factor=1.8",
    "--no-publisher-retry-unconfirmed --publisher-compression=gzip --publisher-compression-level=9",
    "--publisher-compression-threshold=19kB --max-publish-size=20MB --pool-min-connections=3 --pool-max-connections=7",
    "--pool-connect-timeout=21s --pool-health-check=22s --pool-idle-trim=23s --pool-warm-channels=24",
    "--pool-max-channels=25 --pool-borrow-timeout=26s --heartbeat-timeout=27s --boot-timeout=28s --name=shop",
)


@dataclass(frozen=True, slots=True)
class World:
    """What a service makes of its settings."""

    brokers: Brokers
    supervision: Supervision
    consumption: Consumption
    fleet: Any
    service: Service
    handler: Handler
    batch: Handler
    name: str

    def __getattr__(self, part: str) -> Any:
        return getattr(self.service.parts, part)


REACHED: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "broker-url": lambda w: ({url.host for url in w.pool._dialler.rotation._standings}, {"a", "b"}),
    "broker-shuffle": lambda w: (w.brokers.shuffled, True),
    "broker-heartbeat": lambda w: ({url.heartbeat_s for url in w.pool._dialler.rotation._standings}, {7}),
    "tls-ca": lambda w: (Path(w.pool._dialler._tls.ca_file).name, "pem"),
    "tls-cert": lambda w: (Path(w.pool._dialler._tls.certificate_file).name, "pem"),
    "tls-key": lambda w: (Path(w.pool._dialler._tls.key_file).name, "pem"),
    "connect-wait": lambda w: (w.start._connect_wait_s, 8),
    "queues": lambda w: ([each.queue.name for each in (w.handler, w.batch)], ["a", "batch"]),
    "exclude-queues": lambda w: ([each.queue.name for each in (w.handler, w.batch)], ["a", "batch"]),
    "app-dir": lambda w: (Path(w.cpu._settings.app_dir), Path(w.consumption.app_dir)),
    "insecure-app-dir": lambda w: (w.cpu._settings.may_be_insecure, True),
    "burst": lambda w: ((w.service._settings.burst, w.fleet._burst), (True, True)),
    "workers": lambda w: (w.supervision.workers, 3),
    "process-concurrency": lambda w: (w.isolation._limiter._free, 9),
    "prefetch-budget": lambda w: (w.cpu._settings.prefetch_budget_bytes, 5_000_000),
    "concurrency": lambda w: (w.handler.concurrency, 5),
    "prefetch": lambda w: (w.handler.prefetch, 10),
    "handler-timeout": lambda w: (w.handler.timeout_s, 11),
    "max-retries": lambda w: (w.handler.max_attempts, 7),
    "on-error": lambda w: (w.handler.on_error, "reject"),
    "batch-size": lambda w: (w.batch.batch.size, 8),
    "batch-wait": lambda w: (w.batch.batch.wait_s, 9),
    "max-body-size": lambda w: (w.pool._dialler._max_body_bytes, 4_000_000),
    "drain-timeout": lambda w: ((w.service._settings.drain_timeout_s, w.fleet._slots._drain_ns // 10**9), (12, 13)),
    "max-messages": lambda w: (abs(w.heartbeat._recycling._limits.messages / 1_000_000 - 1) <= 0.1, True),
    "max-rss": lambda w: (abs(w.heartbeat._recycling._limits.rss_bytes / 10**9 - 1) <= 0.1, True),
    "max-age": lambda w: (abs(w.heartbeat._recycling._limits.age_s / 3600 - 1) <= 0.1, True),
    "quarantine-after": lambda w: ((w.consumption.quarantine_after, w.supervision.quarantine_after), (6, 6)),
    "publisher.channels": lambda w: (len(w.publisher._outbox._channels), 5),
    "publisher.max-in-flight": lambda w: (w.publisher._outbox._settings.max_in_flight, 77),
    "publisher.overflow": lambda w: (w.publisher._settings.overflow, "drop"),
    "publisher.when-blocked": lambda w: (w.publisher._outbox._settings.when_blocked, "raise"),
    "publisher.timeout": lambda w: (w.publisher._settings.timeout_s, 13),
    "publisher.drain-timeout": lambda w: (w.publisher._settings.drain_timeout_s, 14),
    "publisher.attempts": lambda w: (w.publisher._outbox._settings.attempts, 15),
    "publisher.retry-base": lambda w: (w.publisher._outbox._retry_backoff, Backoff(0.016, 17, 1.8)),
    "publisher.retry-cap": lambda w: (w.publisher._outbox._retry_backoff, Backoff(0.016, 17, 1.8)),
    "publisher.retry-factor": lambda w: (w.publisher._outbox._retry_backoff, Backoff(0.016, 17, 1.8)),
    "publisher.retry-unconfirmed": lambda w: (w.publisher._outbox._settings.retry_unconfirmed, False),
    "publisher.compression": lambda w: (w.publisher._encoder._compression, Compression("gzip", 9, 19_000)),
    "publisher.compression-level": lambda w: (w.publisher._encoder._compression, Compression("gzip", 9, 19_000)),
    "publisher.compression-threshold": lambda w: (w.cpu._settings.publisher.compression_threshold_bytes, 19_000),
    "max-publish-size": lambda w: (w.publisher._encoder.max_body_bytes, 20_000_000),
    "pool.min-connections": lambda w: (w.pool._settings.min_connections, 3),
    "pool.max-connections": lambda w: (w.pool.stats().max_connections, 7),
    "pool.connect-timeout": lambda w: (w.pool._dialler._connect_timeout_s, 21),
    "pool.health-check": lambda w: (w.pool._settings.health_check_s, 22),
    "pool.idle-trim": lambda w: (w.pool._settings.idle_trim_s, 23),
    "pool.warm-channels": lambda w: (w.pool._settings.warm_channels, 24),
    "pool.max-channels": lambda w: (w.pool._settings.max_channels, 25),
    "pool.borrow-timeout": lambda w: (w.pool._settings.borrow_timeout_s, 26),
    "heartbeat-timeout": lambda w: ((w.heartbeat._timeouts_s[0], w.supervision.heartbeat_timeout_s), (27, 27)),
    "boot-timeout": lambda w: ((w.service._settings.boot_timeout_s, w.fleet._boot_ns // 10**9), (28, 28)),
    "name": lambda w: (w.name, "shop"),
}
# What `cli` uses itself, before there are processes: the test that shows it, of a whole service.
OF_THE_COMMAND = {
    "broker-url-file": "tests/broker/cli/test_start.py",
    "embedded": "tests/fork/cli/test_embedded.py",
    "control-socket": "tests/fork/cli/test_ctl.py",
    "http": "tests/fork/observer/test_options.py",
    "no-http": "tests/fork/observer/test_options.py",
    "http-token-file": "tests/fork/observer/test_options.py",
    "http-host": "tests/fork/observer/test_options.py",
    "log-level": "tests/fork/cli/test_terminal.py",
    "log-format": "tests/broker/cli/test_start_log.py",
}


@pytest.fixture
async def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    handlers = Handlers()
    for queue in ("a", "b", "c"):
        handlers.consume(queue)(lambda body: None)
    handlers.consume_batch("batch")(lambda bodies: None)
    said = " ".join(FLAGS).format(pem=tmp_path / "pem", place=tmp_path).split(" ")
    with run.make_context("run", ["app", *said]) as ctx:
        flags = ctx.params
        tls = settings.tls_of(flags)
        brokers = Brokers.parse(flags["broker_url"], flags["broker_shuffle"], tls, int(flags["broker_heartbeat"]))
        chosen = settings.tree(flags, flags["workers"])
        consumption = settings.consumption("app", brokers, chosen, settings.queue_overrides(chosen, 3))
        name = settings.identity("app", flags).name
    supervision = settings.supervision(name, flags["workers"], chosen)
    selected = select(
        handlers,
        consumption.queues,
        consumption.overrides,
        consumption.exclude_queues,
        consumption.queue_overrides,
    )
    handler, batch = selected
    service = assemble(consumption, selected, Board(1).slot(1), lambda: True, lambda state: None)
    return World(brokers, supervision, consumption, Fleet(supervision, random.Random(1)), service, handler, batch, name)


async def test_every_setting_reaches_the_object_that_uses_it(world: World) -> None:
    expected = {key: look(world)[1] for key, look in REACHED.items()}
    assert {key: look(world)[0] for key, look in REACHED.items()} == expected
    assert isinstance(world.cpu._settings, MemberSettings)


async def test_settings_in_code_count_more_than_defaults_and_less_than_what_was_given() -> None:
    handlers = Handlers(
        publisher=PublisherSettings(channels=7, attempts=9, compression="gzip"), pool=PoolSettings(max_channels=8)
    )
    with run.make_context("run", ["app", "--publisher-attempts=4", "--broker-url=amqp://a/"]) as ctx:
        chosen = settings.tree(ctx.params, 1)
        consumption = settings.consumption("app", Brokers.parse(["amqp://a/"]), chosen, {})
    consumption = consumption.with_code(*settings_in(handlers))
    service = assemble(consumption, [], Board(1).slot(1), lambda: True, lambda state: None)
    parts: Any = service.parts
    assert len(parts.publisher._outbox._channels) == 7
    assert parts.publisher._settings.attempts == 4, "given by a flag"
    assert parts.publisher._settings.retry_unconfirmed, "the default of a worker"
    assert parts.publisher._encoder._compression == Compression()
    assert parts.pool._settings == PoolSettings(max_channels=8)


def test_settings_of_the_wrong_type_are_refused_where_they_are_given() -> None:
    with pytest.raises(TypeError, match=r"Handlers\(pool=\.\.\.\) takes PoolSettings, not \{'max_channels': 8\}"):
        Handlers(pool={"max_channels": 8})  # type: ignore[arg-type]


def test_every_setting_is_looked_for() -> None:
    assert {leaf.key for leaf in LEAVES} == REACHED.keys() | OF_THE_COMMAND.keys()
    assert not REACHED.keys() & OF_THE_COMMAND.keys()


@pytest.mark.parametrize("key", OF_THE_COMMAND)
def test_what_the_command_uses_itself_has_its_test(key: str) -> None:
    path = REPOSITORY / OF_THE_COMMAND[key]
    flag = f"--{key}"
    texts = [node.value for node in ast.walk(parsed(path)) if isinstance(node, ast.Constant)]
    variable = f"MXWORKER_{key.replace('-', '_').upper()}"
    assert any(isinstance(text, str) and (flag in text or text == variable) for text in texts)
