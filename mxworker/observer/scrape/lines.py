"""The text of families of metrics, in one format.

prometheus_client writes the text of each sample once. Most of that is its name and labels, which are the same in every
scrape: they are kept, and only the numbers are new. To write all of it each time would take five times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from mxworker.board.metric_values import Histogram
from mxworker.observer.scrape.family_kinds import Family, Labels, numbers

Encode = Callable[[Collector], bytes]
"""An encoder of prometheus_client."""


class Families(Collector):
    """What an encoder takes in place of a registry."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return all families."""
        return self._families


class Lines:
    """Writes families. It keeps something of each sample that was in the last scrape."""

    def __init__(self, encode: Encode) -> None:
        """`encode` writes the format."""
        self._encode = encode
        self._known: dict[str, tuple[str, dict[Labels, str]]] = {}
        """The head of each family by its name, and a template for each value by its labels."""

    def text(self, families: Iterable[Family]) -> str:
        """Return the text of families, without the end that a format may have."""
        return "".join(map(self._text_of, families))

    def _text_of(self, family: Family) -> str:
        head, known = self._known.get(family.name, ("", {}))
        new = [labels for labels, _ in family.values if labels not in known]
        if new or not head:
            head, templates = self._templates(family, new)
            known = known | templates
        self._known[family.name] = head, {labels: known[labels] for labels, _ in family.values}
        return head + "".join(
            [known[labels] % tuple(map(floatToGoString, numbers(value))) for labels, value in family.values]
        )

    def _templates(self, family: Family, new: Sequence[Labels]) -> tuple[str, dict[Labels, str]]:
        """Return the head of a family, and a template for each of these labels, with a `%s` for each number."""
        nothing = Histogram() if family.kind is HistogramMetricFamily else 0
        blank = replace(family, values=[(labels, nothing) for labels in new])
        lines = self._encode(Families([blank.metric()])).decode().removesuffix("# EOF\n").split("\n")[:-1]
        head = "".join(f"{line}\n" for line in lines if line.startswith("#"))
        samples = [line.rpartition(" ")[0].replace("%", "%%") for line in lines if not line.startswith("#")]
        each = len(numbers(nothing))
        parts = (samples[at : at + each] for at in range(0, len(samples), each))
        return head, {
            labels: "".join(f"{sample} %s\n" for sample in part) for labels, part in zip(new, parts, strict=True)
        }
