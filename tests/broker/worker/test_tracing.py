"""Spans of a service that has set up OpenTelemetry, and none of a service that has not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from tests.harness.service import Service, mxworker_run, write_app
from tests.harness.waiting import wait_until
from tests.rabbit.client import Client

SET_UP = """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))


    @handlers.lifespan
    async def writing_spans():
        yield
        with open("spans", "a") as file:  # the processes of cpu=True handlers write theirs, too, which are none
            for span in exporter.get_finished_spans():
                print(span.to_json(indent=None), file=file)
"""

APP = """
    from pathlib import Path

    from mxworker import Context, Handlers, Queue, Reject, Retry, RetryPolicy

    handlers = Handlers()
    SETUP

    @handlers.consume(Queue("QUEUE"), cpu=CPU)
    DEFINE first(body: str, ctx: Context) -> None:
        PUBLISH(body, routing_key="QUEUE.def", headers={"mine": 1, "traceparent": "old"})


    @handlers.consume(Queue("QUEUE.def"), retry=RetryPolicy(delays=(0.1,), jitter=False))
    def second(body: str, ctx: Context) -> None:
        if ctx.delivery.properties.headers["mine"] != 1 or ctx.attempt == 1:
            raise LookupError("once")
        ctx.publisher.publish_sync({"n": body}, routing_key="QUEUE.batch", correlation_id="c-1")


    @handlers.consume_batch(Queue("QUEUE.batch"), size=2, wait=60)
    async def third(items: list[dict]) -> None:
        Path("done").touch()
"""


@pytest.fixture
def queues(queue_name: str, admin: Client) -> Iterator[str]:
    yield queue_name
    for beside in (".def", ".def.dlq", ".def.retry.100", ".batch", ".batch.dlq"):
        admin.delete(f"{queue_name}{beside}")


def start(
    directory: Path, queues: str, broker_url: str, set_up: str = "", cpu: bool = False, **environment: str
) -> Service:
    publish = "ctx.publisher.publish_sync" if cpu else "await ctx.publisher.publish"
    source = APP.replace("SETUP", set_up).replace("QUEUE", queues).replace("CPU", str(cpu))
    source = source.replace("DEFINE", "def" if cpu else "async def").replace("PUBLISH", publish)
    command = mxworker_run(write_app(directory, source), "--workers=1", "--log-format=json", app_dir=directory)
    return Service(command, directory, env={"MXWORKER_BROKER_URL": broker_url, **environment})


def run_chain(service: Service, directory: Path, admin: Client, queues: str) -> None:
    """Send two messages through all three handlers, and stop the service."""
    service.wait_ready()
    admin.publish(queues, [b"one", b"two"])
    wait_until((directory / "done").exists, 90, "the last handler")
    wait_until(lambda: admin.counts(f"{queues}.batch").messages == 0, 90, "the ack")
    service.signal(SIGTERM)
    assert service.wait_exit() == 0


def spans_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "spans").read_text().splitlines()]


@pytest.mark.parametrize("cpu", [False, True])
def test_chain_of_publishes_and_handlers_is_one_trace(
    cpu: bool, queues: str, broker_url: str, admin: Client, tmp_path: Path
) -> None:
    with start(tmp_path, queues, broker_url, SET_UP, cpu) as service:
        run_chain(service, tmp_path, admin, queues)
    spans = spans_of(tmp_path)
    by_id = {span["context"]["span_id"]: span for span in spans}
    batches = [span for span in spans if span["name"] == f"process {queues}.batch"]
    traces: dict[str, list[dict[str, Any]]] = {}
    for span in spans:
        traces.setdefault(span["context"]["trace_id"], []).append(span)
    assert len(traces) == 2 + len(batches)
    chains = [found for found in traces.values() if len(found) > 1]
    assert len(chains) == 2
    for chain in chains:
        assert sorted(span["name"] for span in chain) == sorted(
            [
                f"process {queues}",
                f"publish {queues}.def",
                f"process {queues}.def",  # the first attempt
                f"process {queues}.def",  # the retry, whose copy has kept the context
                f"publish {queues}.batch",
            ]
        )
        [sent] = [span for span in chain if span["name"] == f"publish {queues}.def"]
        assert by_id[sent["parent_id"]]["name"] == f"process {queues}"
        attempts = [span for span in chain if span["name"] == f"process {queues}.def"]
        assert {span["parent_id"] for span in attempts} == {sent["context"]["span_id"]}
        assert sorted(span["attributes"].get("error.type", "") for span in attempts) == ["", "LookupError"]
        assert {span["status"]["status_code"] for span in attempts} == {"ERROR", "UNSET"}
        [last] = [span for span in chain if span["name"] == f"publish {queues}.batch"]
        assert by_id[last["parent_id"]] in attempts
        assert (sent["kind"], attempts[0]["kind"]) == ("SpanKind.PRODUCER", "SpanKind.CONSUMER")
        assert sent["attributes"]["messaging.message.id"] == attempts[0]["attributes"]["messaging.message.id"]
    linked = {link["context"]["span_id"] for span in batches for link in span["links"]}
    assert linked == {span["context"]["span_id"] for span in spans if span["name"] == f"publish {queues}.batch"}
    assert sum(span["attributes"]["messaging.batch.message_count"] for span in batches) == 2


def test_environment_sets_tracing_up_and_spans_are_flushed_at_the_end(
    queues: str, broker_url: str, admin: Client, tmp_path: Path
) -> None:
    with start(
        tmp_path, queues, broker_url, OTEL_TRACES_EXPORTER="console", OTEL_BSP_SCHEDULE_DELAY="3600000"
    ) as service:
        run_chain(service, tmp_path, admin, queues)
        shown = service.output_text()
        assert shown, service.log_text()
    assert shown.count(f'"name": "process {queues}.def"') == 4
    assert shown.count(f'"name": "publish {queues}.def"') == 2


def test_environment_that_asks_for_an_unknown_exporter_is_a_warning(
    queues: str, broker_url: str, tmp_path: Path
) -> None:
    with start(tmp_path, queues, broker_url, OTEL_TRACES_EXPORTER="nowhere") as service:
        service.wait_ready()
        assert service.events("tracing_not_set_up")


def test_service_without_a_tracer_does_not_import_opentelemetry(
    queues: str, broker_url: str, admin: Client, tmp_path: Path
) -> None:
    set_up = """
    @handlers.lifespan
    async def looking():
        yield
        import sys
        Path("loaded").write_text(str([name for name in sys.modules if name.startswith("opentelemetry")]))
"""
    with start(tmp_path, queues, broker_url, set_up) as service:
        run_chain(service, tmp_path, admin, queues)
    assert (tmp_path / "loaded").read_text() == "[]"
