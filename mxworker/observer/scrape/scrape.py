"""The scrape: the families of metrics as text, in the format that the client prefers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import cast

from prometheus_client import openmetrics
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mxworker.observer.http.reply import Reply
from mxworker.observer.overview.view import View
from mxworker.observer.scrape.families import families
from mxworker.observer.scrape.user_metrics import UserMetrics
from mxworker.system.printable import well_formed

_END = b"# EOF\n"
_QUICK_TEXT = openmetrics.exposition.UNDERSCORES
_QUICK_OPENMETRICS = openmetrics.exposition.ALLOWUTF8
"""The schemes for our names, which need no escaping in any. The other one would double the time of OpenMetrics."""

_Encode = Callable[[Collector], bytes]


class _Families(Collector):
    """What an encoder of prometheus_client takes in place of a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return all families."""
        return self._families


def scrape(view: View, accept: str, user_metrics: UserMetrics | None = None) -> Reply:
    """Return all metrics in the format that `accept` prefers, which is OpenMetrics or the text format."""
    accept = _understood(accept)
    encode, content_type = choose_encoder(accept)
    quick = _QUICK_OPENMETRICS if "openmetrics" in content_type else _QUICK_TEXT
    body = encoded(families(view), accept, quick)
    if user_metrics is not None:
        living = {worker.slot for worker in view.service.workers if worker.pid is not None}
        body = body.removesuffix(_END) + _encoded_foreign(user_metrics.families(living), encode)
    return Reply(body, content_type=content_type)


def _understood(accept: str) -> str:
    """Return what a client accepts, or nothing when prometheus_client cannot read it: that is the text format."""
    try:
        choose_encoder(accept)
    except Exception:  # whatever the parser of a version raises
        return ""
    return accept


def _encoded_foreign(families: Sequence[Metric], encode: _Encode) -> bytes:
    """Return families of the application, whose labels may have texts of messages: JSON can bring lone surrogates."""
    try:
        return encode(_Families(families))
    except Exception:  # of the encoder, for any text that it cannot write
        return encode(_Families(map(_encodable, families)))


def _encodable(family: Metric) -> Metric:
    family.documentation = well_formed(str(family.documentation))
    family.samples = [
        sample._replace(labels={name: well_formed(str(value)) for name, value in sample.labels.items()})
        for sample in family.samples
    ]
    return family


def encoded(families: Iterable[Metric], accept: str, escaping: str) -> bytes:
    """Return families in the format that `accept` prefers; `escaping` is a scheme for names that are not plain."""
    encode = cast(Callable[..., bytes], choose_encoder(accept)[0])
    return encode(_Families(families), escaping=escaping)
