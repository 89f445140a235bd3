"""The scrape: the families of metrics as text, in the format that the client prefers."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import generate_latest, openmetrics
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from mxworker.observer.http.reply import Reply
from mxworker.observer.overview.view import View
from mxworker.observer.scrape.families import families
from mxworker.observer.scrape.lines import Encode, Families, Lines
from mxworker.observer.scrape.user_metrics import UserMetrics
from mxworker.system.printable import well_formed


class Scrape:
    """Replies to scrapes of one service."""

    def __init__(self, user_metrics: UserMetrics | None = None) -> None:
        """`user_metrics` are those of the application."""
        self._user_metrics = user_metrics
        self._text = Lines(generate_latest)
        self._openmetrics = Lines(openmetrics.exposition.generate_latest)

    def reply(self, view: View, accept: str) -> Reply:
        """Return all metrics in the format that `accept` prefers, which is OpenMetrics or the text format."""
        encode, content_type = choose_encoder(_understood(accept))
        lines = self._openmetrics if "openmetrics" in content_type else self._text
        body = lines.text(families(view)).encode() + _encoded_foreign(self._foreign(view), encode)
        return Reply(body, content_type=content_type)

    def _foreign(self, view: View) -> Sequence[Metric]:
        if self._user_metrics is None:
            return ()
        return self._user_metrics.families({worker.slot for worker in view.service.workers if worker.pid is not None})


def _understood(accept: str) -> str:
    """Return what a client accepts, or nothing when prometheus_client cannot read it: that is the text format."""
    try:
        choose_encoder(accept)
    except Exception:  # whatever the parser of a version raises
        return ""
    return accept


def _encoded_foreign(families: Sequence[Metric], encode: Encode) -> bytes:
    """Return families of the application, whose labels may have texts of messages: JSON can bring lone surrogates."""
    try:
        return encode(Families(families))
    except Exception:  # of the encoder, for any text that it cannot write
        return encode(Families(map(_encodable, families)))


def _encodable(family: Metric) -> Metric:
    family.documentation = well_formed(str(family.documentation))
    family.samples = [
        sample._replace(labels={name: well_formed(str(value)) for name, value in sample.labels.items()})
        for sample in family.samples
    ]
    return family
