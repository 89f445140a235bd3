"""The series of a scrape, made from a scrape of a service that has done a little of everything."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from docs.generators.markdown import page as page_of
from docs.generators.markdown import table
from mxworker.board.metric_values import QueueFacts
from mxworker.board.metrics_layout import (
    BOUNDS_S,
    OUTCOMES,
    PUBLISH_OUTCOMES,
    Cause,
    ChannelState,
    ConnectionState,
    Loss,
    Role,
)
from mxworker.master.service_status import RESTARTS
from mxworker.observer.scrape.scrape import Scrape
from tests.pure.observer.views import metrics, view

_INTRODUCTION = """\
`/metrics` serves one scrape for all workers of a service. Counters belong to the service: they do not go down when a
worker is replaced or killed. The alerts and the dashboard in `conf/` are made of these series. Your own metrics, made
with `prometheus_client`, are in the same scrape.

A histogram has the series `_bucket`, `_sum` and `_count`. Its bounds are, in seconds,
{bounds}."""
_OUTCOMES = {
    "ack": 'It was handled, or `on_error="ack"` dropped it.',
    "requeue": "It is executed again soon. Also: it went back to its queue, because no copy of it could be published.",
    "retry": "A copy of it waits in a retry queue.",
    "reject": "It is in the dead-letter queue, or gone where there is none.",
    "decode_error": "As `reject`, because its body could not be decoded.",
    "timeout": "Its handler ran out of time, whatever became of it: a retry, a dead letter or any other ending.",
    "stale": "Its channel was lost before it was settled, so the broker delivers it again.",
    "quarantine": "It had killed workers, and is kept in the quarantine.",
}
_PUBLISH_OUTCOMES = {
    "confirmed": "The broker has taken responsibility for the message.",
    "nacked": "The broker refused it (`PublishNacked`).",
    "returned": "No queue took it (`Unroutable`).",
    "unconfirmed": "It was sent and not confirmed, so its fate is unknown (`PublishUnconfirmed`).",
    "overflow": "It was never sent: the window was full, or the broker took no publishes (`PublishOverflow`).",
    "dropped": 'It was never sent, at a full window with `overflow="drop"`.',
}
_LABELS = (
    ("queue", "the name of a queue; `other` for what is beyond the first 64 handlers"),
    ("handler", "the name of a handler; `other` as above"),
    ("exchange", "the name of an exchange, empty for the default one; `other` for what is beyond the first 64"),
    ("worker", "the number of a worker, which its successor takes over"),
    ("error_type", "the class of an exception, or `timeout`, `cancelled` or `lost`; 50 for a handler, and `other`"),
    ("direction", "`received` or `sent`"),
)
_ORDER = {label: at for at, (label, _) in enumerate(_LABELS)}


@dataclass(frozen=True, slots=True)
class _Series:
    """A series as a query names it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str

    @property
    def unit(self) -> str:
        """The unit of the values."""
        units = {"timestamp_seconds": "s since 1970", "seconds": "s", "bytes": "bytes"}
        name = self.name.removesuffix("_total")
        return next((unit for ending, unit in units.items() if name.endswith(f"_{ending}")), "")


def page() -> str:
    """Return the page."""
    rows = [
        (f"`{each.name}`", each.kind, " ".join(f"`{label}`" for label in each.labels), each.unit, each.text)
        for each in _series()
    ]
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS_S)
    return page_of(
        "Metrics",
        _INTRODUCTION.format(bounds=bounds),
        table(("series", "type", "labels", "unit", "meaning"), rows),
        *_labels(),
        *_outcomes(),
    )


def _series() -> Iterator[_Series]:
    """Yield every series. One that a service has only at times is there, since the view below has a value for each."""
    queue = QueueFacts("orders", 1, 1, 1, 1, 1, looked_at_unix_s=view().now_unix_s)
    shown = view(metrics=metrics(queues=(queue,)))
    for family in text_string_to_metric_families(Scrape().reply(shown, "").body.decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        in_order = tuple(sorted(labels, key=lambda label: (_ORDER.get(label, len(_ORDER)), label)))
        yield _Series(_name(family), family.type, in_order, family.documentation)


def _name(family: Metric) -> str:
    return family.samples[0].name if family.type != "histogram" else family.name


def _labels() -> Iterator[str]:
    yield "## Labels"
    yield "No label has anything of a message."
    fixed = (
        ("state", "of `service_state`: `starting`, `running` or `stopping`"),
        ("reason", f"of `worker_restarts_total`: {_codes(reason.value for reason in RESTARTS)}"),
        ("reason", f"of `reconnects_total`: {_values(Loss)}"),
        ("reason", f"of `publish_waiting`: {_values(Cause)}"),
        ("role", f"of connections and channels: {_values(Role)}"),
        ("state", f"of connections: {_values(ConnectionState)}; of channels: {_values(ChannelState)}"),
        ("outcome", "of `reloads_total`: `done`, `refused`; of the others, see below"),
    )
    yield table(("label", "values"), ((f"`{label}`", values) for label, values in (*_LABELS, *fixed)))


def _values(kind: type[IntEnum]) -> str:
    """Return the values of a label that has one for each member."""
    return _codes(one.name for one in kind)


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name.lower().replace(' ', '_')}`" for name in names)


def _outcomes() -> Iterator[str]:
    yield "## Outcomes of deliveries"
    yield (
        "Each delivery that ends has one outcome, counted when its worker settles it. A delivery that goes back "
        "unprocessed, at a drain or a pause, has none."
    )
    yield table(("outcome", "the delivery"), ((f"`{each}`", _OUTCOMES[each]) for each in OUTCOMES))
    yield "## Outcomes of publishes"
    yield table(("outcome", "the publish"), ((f"`{each}`", _PUBLISH_OUTCOMES[each]) for each in PUBLISH_OUTCOMES))
