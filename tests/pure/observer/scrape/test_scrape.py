"""The scrape: which series there are, what they say, and what Prometheus' own checker thinks of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import generate_latest, openmetrics
from prometheus_client.core import Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from mxworker.board.metric_values import OLD_S, Histogram, ServiceMetrics
from mxworker.board.metrics_layout import BOUNDS_S, OUTCOMES
from mxworker.observer.overview.view import View
from mxworker.observer.scrape.families import families
from mxworker.observer.scrape.lines import Families
from mxworker.observer.scrape.scrape import Scrape
from mxworker.observer.scrape.user_metrics import UserMetrics
from tests.harness.prometheus import promtool
from tests.pure.observer.views import consumer, metrics, process, service, view, worker

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROMETHEUS_ASKS = (  # as Prometheus 2.42 does
    "application/openmetrics-text;version=1.0.0;q=0.75,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
ENCODERS = {"": generate_latest, OPENMETRICS: openmetrics.exposition.generate_latest}
# Name in the text format, type, labels: UX 3 and what alert rules need beside it.
SERIES = {
    "messages_total": ("counter", "queue handler outcome"),
    "failures_total": ("counter", "queue handler error_type"),
    "redelivered_total": ("counter", "queue"),
    "handler_duration_seconds": ("histogram", "queue handler"),
    "handler_busy_seconds_total": ("counter", "queue handler"),
    "handler_slots": ("gauge", "queue handler"),
    "message_wait_seconds": ("histogram", "queue"),
    "message_age_seconds": ("histogram", "queue"),
    "message_age_objective_seconds": ("gauge", "queue handler"),
    "message_end_to_end_seconds": ("histogram", "queue"),
    "message_bytes_total": ("counter", "queue exchange direction"),
    "in_flight": ("gauge", "queue"),
    "prefetched": ("gauge", "queue"),
    "last_delivery_timestamp_seconds": ("gauge", "queue"),
    "consumer_paused": ("gauge", "queue"),
    "consuming_workers": ("gauge", "queue"),
    "stuck_handlers": ("gauge", "queue"),
    "published_total": ("counter", "exchange outcome"),
    "publish_confirm_duration_seconds": ("histogram", ""),
    "publish_in_flight": ("gauge", ""),
    "publish_waiting": ("gauge", "reason"),
    "publish_blocked": ("gauge", ""),
    "connections": ("gauge", "role state"),
    "channels": ("gauge", "role state"),
    "borrowed_channels": ("gauge", ""),
    "reconnects_total": ("counter", "reason"),
    "pool_wait_seconds": ("histogram", ""),
    "worker_up": ("gauge", "worker"),
    "worker_restarts_total": ("counter", "reason"),
    "worker_heartbeat_age_seconds": ("gauge", "worker"),
    "worker_rss_bytes": ("gauge", "worker"),
    "worker_cpu_seconds_total": ("counter", "worker"),
    "event_loop_lag_seconds": ("gauge", "worker"),
    "queue_last_answer_timestamp_seconds": ("gauge", "queue"),
    "queue_ready": ("gauge", "queue"),
    "queue_consumers": ("gauge", "queue"),
    "queue_retry_waiting": ("gauge", "queue"),
    "queue_dead_letters": ("gauge", "queue"),
    "queue_quarantined": ("gauge", "queue"),
    "log_lines_dropped_total": ("counter", ""),
    "reloads_total": ("counter", "outcome"),
    "service_state": ("gauge", "state"),
    "build_info": ("gauge", "version"),
}


def text_of(shown: View) -> str:
    return Scrape().reply(shown, "").body.decode()


def samples(shown: View) -> dict[str, float]:
    """Return the samples of a scrape as they stand in the text, without the prefix of their names."""
    lines = [line for line in text_of(shown).splitlines() if not line.startswith("#")]
    return {name.removeprefix("mxworker_"): float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def families_of(text: str) -> dict[str, Metric]:
    parsed = openmetrics_families(text) if text.endswith("# EOF\n") else text_families(text)
    return {family.name: family for family in parsed}


def test_every_series_is_there_with_its_type_and_labels() -> None:
    text = text_of(view())
    types = dict(re.findall(r"^# TYPE mxworker_(\S+) (\S+)$", text, re.MULTILINE))
    assert types == {name: kind for name, (kind, _) in SERIES.items()}
    labels = {f"mxworker_{name}".removesuffix("_total"): set(labels.split()) for name, (_, labels) in SERIES.items()}
    for family in text_families(text):
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == labels[family.name], family.name


@pytest.mark.parametrize("shown", [view(), view(metrics=ServiceMetrics((), (), (), ()), service=service(workers=()))])
def test_checker_of_prometheus_has_no_complaint(shown: View) -> None:
    checked = promtool("check", "metrics", text=text_of(shown))
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
        (PROMETHEUS_ASKS, "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"),
    ],
)
def test_format_is_the_one_that_the_client_prefers(accept: str, content_type: str) -> None:
    reply = Scrape().reply(view(), accept)
    assert reply.content_type == content_type
    assert reply.body.endswith(b"# EOF\n") == ("openmetrics" in content_type)


def test_both_formats_say_the_same() -> None:
    text, other = (families_of(Scrape().reply(view(), accept).body.decode()) for accept in ("", OPENMETRICS))
    seen = {sample for family in text.values() for sample in map(plain, family.samples)}
    assert seen == {sample for family in other.values() for sample in map(plain, family.samples)}
    assert len(seen) > 200


def plain(sample: object) -> tuple[object, ...]:
    name, labels, value, *_ = sample  # type: ignore[misc]
    return name, tuple(sorted(labels.items())), value


def encoded(shown: View, accept: str, **options: str) -> bytes:
    """Return what prometheus_client alone writes."""
    encode = ENCODERS[accept]
    return encode(Families([family.metric() for family in families(shown)]), **options)


@pytest.mark.parametrize("accept", ENCODERS)
def test_our_names_are_the_same_in_both_schemes_of_escaping(accept: str) -> None:
    texts = {encoded(view(), accept, escaping=scheme) for scheme in ("underscores", "allow-utf-8")}
    assert len(texts) == 1


@pytest.mark.parametrize("accept", ENCODERS)
def test_every_scrape_is_as_prometheus_client_writes_it(accept: str) -> None:
    scrape = Scrape()  # what it keeps of one scrape is used in the next ones
    names = ["%s %d %%", "a 1.0", "# TYPE", 'a"b', "a\\b", "\n\r\v\x85\u2028", "", "{ü}"]
    for number, some in enumerate([names[:5], names, names[3:], [], names[::-1], ["%"], ["%"]]):
        handlers = [consumer(name, name, bytes_received=number, busy_s=number / 7) for name in some]
        shown = view(metrics=metrics(consumers=tuple(handlers)))
        assert scrape.reply(shown, accept).body == encoded(shown, accept)


def test_no_time_of_creation_is_told() -> None:
    for accept in ("", OPENMETRICS):
        assert b"_created" not in Scrape().reply(view(), accept).body


# ---- what the series say


def test_counters_of_a_handler() -> None:
    shown = samples(view())
    for number, outcome in enumerate(OUTCOMES, 1):
        assert shown[f'messages_total{{handler="order",outcome="{outcome}",queue="orders"}}'] == number
    assert shown['failures_total{error_type="ValueError",handler="order",queue="orders"}'] == 4
    assert shown['handler_busy_seconds_total{handler="order",queue="orders"}'] == 12.5
    assert shown['message_bytes_total{direction="received",exchange="",queue="orders"}'] == 700
    assert shown['message_bytes_total{direction="sent",exchange="shop",queue=""}'] == 900


def test_histogram_is_cumulative_and_has_all_bounds() -> None:
    shown = samples(view())
    labels = 'handler="order",{}queue="orders"'
    bounds = [f"{float(bound)}" for bound in BOUNDS_S]
    buckets = [
        shown["handler_duration_seconds_bucket{" + labels.format(f'le="{bound}",') + "}"] for bound in [*bounds, "+Inf"]
    ]
    assert buckets == [1] * 7 + [1] + [2] * 10 + [3]
    assert shown["handler_duration_seconds_count{" + labels.format("") + "}"] == 3
    assert shown["handler_duration_seconds_sum{" + labels.format("") + "}"] == 1000.301


def test_series_by_queue_sum_up_its_handlers() -> None:
    both = metrics(consumers=(consumer("other", "other"), consumer("other", "more", is_paused=True, in_flight=4)))
    shown = samples(view(metrics=both))
    assert shown['in_flight{queue="other"}'] == 7
    assert shown['redelivered_total{queue="other"}'] == 12
    assert shown['consumer_paused{queue="other"}'] == 0
    assert shown['last_delivery_timestamp_seconds{queue="other"}'] == 1_700_000_001.5
    assert shown['message_wait_seconds_count{queue="other"}'] == 2


def test_series_of_publishing_sum_up_the_workers() -> None:
    shown = samples(view())
    assert shown["publish_in_flight"] == 10
    assert shown["publish_blocked"] == 1
    assert shown['publish_waiting{reason="same_id"}'] == 4
    assert shown["publish_confirm_duration_seconds_count"] == 2
    assert shown['published_total{exchange="shop",outcome="confirmed"}'] == 9
    assert shown['connections{role="consume",state="active"}'] == 2
    assert shown['reconnects_total{reason="closed_by_broker"}'] == 0
    assert shown["log_lines_dropped_total"] == 4


def test_fact_that_nobody_knows_is_left_out() -> None:
    shown = samples(view(metrics=metrics(consumers=(consumer(objective_s=None),))))
    assert shown['queue_dead_letters{queue="orders"}'] == 4
    assert not any(name.startswith(("queue_quarantined{", "message_age_objective")) for name in shown)


def test_depths_of_which_the_broker_has_not_told_for_a_while_have_no_samples() -> None:
    at = view().metrics.queues[0].looked_at_unix_s
    for now, is_shown in ((at, True), (at + OLD_S, True), (at + OLD_S + 1, False)):
        shown = samples(view(now_unix_s=now))
        depths = {"queue_ready", "queue_consumers", "queue_retry_waiting", "queue_dead_letters"}
        assert ({name.partition("{")[0] for name in shown} >= depths) is is_shown
        assert any(name.startswith("queue_ready") for name in shown) is is_shown
        assert shown['queue_last_answer_timestamp_seconds{queue="orders"}'] == at


def test_worker_that_does_not_live_has_no_heartbeat() -> None:
    gone = worker(2, pid=None, consuming="vacant", heartbeat_age_s=None)
    booting = worker(3, consuming="booting", heartbeat_age_s=None)
    shown = samples(view(service=service(workers=(worker(1), gone, booting))))
    assert {name for name in shown if name.startswith("worker_up")} == {
        'worker_up{worker="1"}',
        'worker_up{worker="3"}',
    }
    assert shown['worker_up{worker="1"}'] == 1
    assert shown['worker_up{worker="3"}'] == 0
    assert [name for name in shown if "heartbeat" in name] == ['worker_heartbeat_age_seconds{worker="1"}']


def test_memory_and_lag_of_each_worker() -> None:
    processes = process(6), process(7, loop_lag_s=0.5, cpu_s=2.25)
    workers = worker(6, pid=None), worker(7)
    shown = samples(view(metrics=metrics(processes=processes), service=service(workers=workers)))
    assert shown['event_loop_lag_seconds{worker="7"}'] == 0.5
    assert shown['worker_cpu_seconds_total{worker="7"}'] == 2.25
    assert shown['worker_rss_bytes{worker="7"}'] == 50_000_000
    assert {name for name in shown if 'worker="6"' in name} == {'worker_cpu_seconds_total{worker="6"}'}


def test_facts_of_the_service() -> None:
    shown = samples(view(service=service(state="stopping")))
    assert {name: value for name, value in shown.items() if name.startswith("service_state")} == {
        'service_state{state="starting"}': 0,
        'service_state{state="running"}': 0,
        'service_state{state="stopping"}': 1,
    }
    assert shown['worker_restarts_total{reason="crash"}'] == 3
    assert shown['reloads_total{outcome="done"}'] == 1
    assert shown['build_info{version="1.2.3"}'] == 1


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "ü", "{}", "a\u2028b"])
def test_name_of_any_characters_is_read_back(name: str) -> None:
    hostile = metrics(consumers=(consumer(name, name, age=Histogram()),))
    for accept in ("", OPENMETRICS):
        found = families_of(Scrape().reply(view(metrics=hostile), accept).body.decode())
        assert found["mxworker_handler_slots"].samples[0].labels == {"queue": name, "handler": name}


@pytest.mark.parametrize("version", ["\xff", "a.b.c", "", "1"])
def test_client_that_asks_for_a_version_that_is_none_gets_an_answer(version: str) -> None:
    accept = f"application/openmetrics-text; version={version}; escaping=,;="
    assert "mxworker_worker_up" in families_of(Scrape().reply(view(), accept).body.decode())


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_label_that_cannot_be_encoded_is_escaped_and_costs_no_other_metric(accept: str, tmp_path: Path) -> None:
    values = MmapedDict(str(tmp_path / "counter_1.db"))
    for label in ("good", json.loads('"bad \\ud800"')):  # as a handler may have it from a message
        values.write_value(mmap_key("shop", "shop_total", ["kind"], [label], "Help."), 7.0, 0.0)
    values.close()
    found = families_of(Scrape(UserMetrics(tmp_path)).reply(view(), accept).body.decode())
    assert {sample.labels["kind"]: sample.value for sample in found["shop"].samples} == {"good": 7, "bad \\ud800": 7}
    assert "mxworker_worker_up" in found
