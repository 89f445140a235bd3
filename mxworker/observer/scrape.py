"""The scrape: the families of metrics as text, in the format that the client prefers."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mxworker.observer.families import families
from mxworker.observer.reply import Reply
from mxworker.observer.view import View


class _Families(Collector):
    """What an encoder of prometheus_client takes in place of a registry."""

    def __init__(self, view: View) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        """Return all families."""
        return families(self._view)


def scrape(view: View, accept: str) -> Reply:
    """Return all metrics in the format that `accept` prefers, which is OpenMetrics or the text format."""
    encode, content_type = choose_encoder(accept)
    return Reply(encode(_Families(view)), content_type=content_type)
