"""The headers that mxworker writes and reads, made from the module that names them."""

from __future__ import annotations

from collections.abc import Iterator

from docs.generators.markdown import page as page_of
from docs.generators.markdown import table
from docs.generators.sources import definition_of, members_of
from mxworker.wire import own_headers
from mxworker.wire.own_headers import OwnHeader

_INTRODUCTION = """\
A message needs no header of mxworker: any program can publish to a queue that mxworker consumes. mxworker writes these
headers into the copies that it makes of messages, and reads them there. Anybody who may publish to the queue can write
them too, so they prove nothing.

A handler sees neither `mx-attempt` nor the headers of the origin among `ctx.delivery.headers`: `ctx.attempt` and
`ctx.delivery.origin` tell what they say. All other headers and properties of a copy are those of the original, byte for
byte."""
_SECTIONS = {
    "Retries": "OF_RETRIES",
    "Dead letters": "OF_DEAD_LETTERS",
    "Quarantine": "OF_QUARANTINE",
    "Replays": "OF_REPLAYS",
    "Origin": "OF_ORIGIN",
}
_KILLED = (
    ("killed", "Workers died while they handled the message; only in a quarantine."),
    ("hung", "As `killed`, and the last worker hung."),
)
_MOVED = """\
RabbitMQ acts on some headers, or writes them itself. On a copy they have the name with `mx-origin-` before it:
`x-death`, `x-first-death-*`, `x-last-death-*`, `x-delivery-count`, `x-acquired-count`, `x-deduplication-header`, `CC`
and `BCC`."""
_OTHERS = (
    (
        "timestamp_in_ms",
        "When RabbitMQ took the message; the age of messages counts from it, or else from `timestamp`.",
    ),
    (
        "x-death",
        "Why RabbitMQ itself has dead-lettered the message; `mxworker dlq` shows it when `mx-reason` is missing.",
    ),
    ("x-delivery-count", "How often the message came back; `mxworker dlq` renews a letter before RabbitMQ drops it."),
    ("traceparent", "The trace of the publisher (OpenTelemetry); written to publishes when the process has a tracer."),
)


def page() -> str:
    """Return the page."""
    return page_of("Headers", _INTRODUCTION, *(part for title in _SECTIONS for part in _section(title)), *_end())


def _section(title: str) -> Iterator[str]:
    name = _SECTIONS[title]
    _, where = definition_of(own_headers.__name__, name)
    headers: tuple[OwnHeader, ...] = getattr(own_headers, name)
    yield f"## {title}"
    yield where.replace("`origins` moves some headers of the broker as well.", "").strip()
    yield table(("header", "type", "meaning"), ((f"`{each.name}`", each.kind, each.meaning) for each in headers))
    if title == "Dead letters":
        reasons = [*members_of("mxworker.api.failures", "FailureKind"), *_KILLED]
        yield table(("`mx-reason`", "meaning"), ((f"`{value}`", text) for value, text in reasons))
    if title == "Origin":
        yield _MOVED


def _end() -> Iterator[str]:
    yield "## Headers of others"
    yield table(("header", "what mxworker reads in it"), ((f"`{name}`", text) for name, text in _OTHERS))
