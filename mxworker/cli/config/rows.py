"""Every setting with its value and its source, as operators see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mxworker.cli.config import sources
from mxworker.cli.config.options import BY_KEY, LEAVES
from mxworker.cli.config.sources import Rank
from mxworker.config.leaf import Leaf
from mxworker.errors import ConfigError

NO_CODE: Mapping[tuple[str, ...], Any] = {}
IN_CODE = "the code"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting."""

    key: str
    value: str | None
    """None when there is none."""
    source: str
    is_default: bool = False

    def as_fields(self) -> dict[str, str | None]:
        """Return what programs see of it."""
        return {"key": self.key, "value": self.value, "source": self.source}


def rows_of(flags: Mapping[str, Any], in_code: Mapping[tuple[str, ...], Any] = NO_CODE) -> Iterator[Row]:
    """Yield all settings. `in_code` are the values of the application's code, by the paths of their leaves."""
    for leaf in LEAVES:
        is_given = sources.rank(leaf) > Rank.DEFAULT
        if not is_given and leaf.path in in_code and in_code[leaf.path] != leaf.default:
            yield Row(leaf.key, _shown(leaf, in_code[leaf.path]), IN_CODE)
        else:
            yield Row(leaf.key, _shown(leaf, flags[leaf.name]), sources.source_of(leaf), not is_given)
    for document in sources.sources().documents:
        for queue, values in document.queues.items():
            for key, value in values.items():
                place = document.place_of("queues", queue, key)
                yield Row(f'queues."{queue}".{key}', BY_KEY[key].kind.write(value), place)


def _shown(leaf: Leaf, value: Any) -> str | None:
    if leaf.is_secret and value:
        return leaf.kind.write(tuple(map(_masked, value)))
    text = leaf.text_of(value)
    return f"({leaf.unset})" if text is None and leaf.unset else text


def _masked(url: str) -> str:
    from mxworker.brokers import BrokerUrl

    try:
        return str(BrokerUrl.parse(url))
    except ConfigError:
        return "***"
