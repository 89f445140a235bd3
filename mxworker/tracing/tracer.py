"""The tracer of this process: whether there is one, and the spans that it makes.

OpenTelemetry is imported only in a process that has set it up: the application did, in its module or in a lifespan, or
the environment asks for it (`OTEL_TRACES_EXPORTER`, `OTEL_EXPORTER_OTLP_ENDPOINT`). Both happen in a worker and not in
the master, since the threads of an exporter do not survive a fork.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign
from mxworker.tracing.conventions import (
    CORRELATION_ID,
    DELIVERY_TAG,
    ERROR_TYPE,
    MESSAGE_COUNT,
    MESSAGE_ID,
    carrier_of,
    processing,
    sending,
)

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Link, Span

log = logging.getLogger(__name__)

_EXPORTERS = "OTEL_TRACES_EXPORTER"
_OTLP = {"grpc": ["otlp_proto_grpc"], "http/protobuf": ["otlp_proto_http"]}
_ASKED_BY = (_EXPORTERS, "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracer:
    """Makes spans with the global tracer provider, and passes their context on with its propagator."""

    def __init__(self) -> None:
        """Use the provider that is set now. OpenTelemetry must be installed."""
        from opentelemetry import propagate, trace

        self._trace = trace
        self._tracer = trace.get_tracer("mxworker", sys.modules["mxworker"].__version__)
        self._propagator = propagate.get_global_textmap()
        self._fields = frozenset(self._propagator.fields)

    # ---- publishing

    def start_publish(self, exchange: str, routing_key: str) -> Span:
        """Start the span of a publish, in the context of the caller. `end` ends it."""
        name, attributes = sending(exchange, routing_key)
        return self._tracer.start_span(name, kind=self._trace.SpanKind.PRODUCER, attributes=attributes)

    def headers_of(self, span: Span) -> dict[str, str]:
        """Return the headers that carry the context of a span."""
        headers: dict[str, str] = {}
        self._propagator.inject(headers, self._trace.set_span_in_context(span))
        return headers

    def end(self, span: Span, error_type: str, message_id: str = "") -> None:
        """End a span. `error_type` is the class of the error, "" when there was none."""
        if message_id:
            span.set_attribute(MESSAGE_ID, message_id)
        self.note_error(span, error_type)
        span.end()

    def note_error(self, span: Span, error_type: str) -> None:
        """Mark a span as failed, unless `error_type` is ""."""
        if error_type:
            span.set_attribute(ERROR_TYPE, error_type)
            span.set_status(self._trace.StatusCode.ERROR)

    # ---- handling

    @contextmanager
    def processing_one(
        self,
        queue: str,
        exchange: str,
        routing_key: str,
        headers: Mapping[str, object],
        delivery_tag: int,
        message_id: str | None,
        correlation_id: str | None,
    ) -> Iterator[Span]:
        """Make a span for the execution of a message, as a child of the publish that its headers name."""
        name, attributes = processing(queue, exchange, routing_key)
        attributes[DELIVERY_TAG] = delivery_tag
        if message_id is not None:
            attributes[MESSAGE_ID] = message_id
        if correlation_id is not None:
            attributes[CORRELATION_ID] = correlation_id
        kind = self._trace.SpanKind.CONSUMER
        with self._tracer.start_as_current_span(
            name, self._context_of(headers), kind=kind, attributes=attributes
        ) as span:
            yield span

    @contextmanager
    def processing_batch(self, queue: str, headers: Sequence[Mapping[str, object]]) -> Iterator[Span]:
        """Make a span for the execution of a batch, with a link to the publish of each message that names one."""
        name, attributes = processing(queue, "", "")
        attributes[MESSAGE_COUNT] = len(headers)
        links = [link for each in headers if (link := self._link_to(each)) is not None]
        kind = self._trace.SpanKind.CONSUMER
        with self._tracer.start_as_current_span(name, kind=kind, attributes=attributes, links=links) as span:
            yield span

    def _context_of(self, headers: Mapping[str, object]) -> Context:
        return self._propagator.extract(carrier_of(headers, self._fields))

    def _link_to(self, headers: Mapping[str, object]) -> Link | None:
        carrier = carrier_of(headers, self._fields)
        if not carrier:
            return None
        context = self._trace.get_current_span(self._propagator.extract(carrier)).get_span_context()
        return self._trace.Link(context) if context.is_valid else None


def find_tracer() -> Tracer | None:
    """Return the tracer of this process, None when nobody has set one up."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else Tracer()


def set_up_from(environment: Mapping[str, str]) -> None:
    """Set OpenTelemetry up as the environment says, if it asks for traces. Spans are exported in batches.

    The SDK itself reads `OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER` and the like. A failure is logged, and nothing is
    traced.
    """
    is_off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_off or not any(environment.get(name) for name in _ASKED_BY):
        return
    names = [name.strip() for name in (environment.get(_EXPORTERS) or "otlp").split(",")]
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporters = [_exporter(name, environment)() for name in names if name != "none"]
        if exporters:
            provider = TracerProvider()
            for exporter in exporters:
                provider.add_span_processor(BatchSpanProcessor(exporter))
            trace.set_tracer_provider(provider)
    except Exception as error:  # of the SDK, its exporters and their settings
        why = f"{type(error).__name__}: {foreign(error)}"
        facts = log_event("tracing_not_set_up", error=why)
        log.warning(
            "the environment asks for traces (OTEL_...), but OpenTelemetry cannot be set up: %s; nothing is traced. "
            "Install opentelemetry-sdk and the exporter, or unset the variables",
            why,
            extra=facts,
        )


def _exporter(name: str, environment: Mapping[str, str]) -> Callable[[], Any]:
    """Return the class of an exporter by its name in the environment. Raises LookupError when it is not installed."""
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    wanted = [name] if name != "otlp" else _OTLP.get(protocol or "", ["otlp", "otlp_proto_http", "otlp_proto_grpc"])
    for each in wanted:
        for found in entry_points(group="opentelemetry_traces_exporter", name=each):
            return found.load()  # type: ignore[no-any-return]
    raise LookupError(f"there is no exporter {name!r} of traces")
