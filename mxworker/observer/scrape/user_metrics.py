"""The application's own metrics: the files of all workers, added up by prometheus_client; see `worker.user_metrics`."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from mxworker.system.log import LineBudget
from mxworker.system.log_events import log_event

_LOG = logging.getLogger("mxworker.observer")

_OURS = "mxworker_"
_FILE = re.compile(r"(?:counter|histogram|summary|(?P<gauge>gauge)_[a-z]+)_(?P<slot>\d+)(?:-cpu\d+)?\.db")


class UserMetrics:
    """The metrics in one directory."""

    def __init__(self, directory: Path) -> None:
        """`directory` is that of the service, and no process outside of it writes there."""
        self._directory = directory
        self._unread = LineBudget()

    def families(self, living: Collection[int]) -> list[Metric]:
        """Return all families, but those that begin as ours do. Gauges are those of the `living` slots."""
        return [family for family in self._merged(living) if not family.name.startswith(_OURS)]

    def sweep(self) -> None:
        """Remove files of processes that the application started itself: there may be any number of them."""
        for path in self._files():
            if _FILE.fullmatch(path.name) is None:
                path.unlink(missing_ok=True)

    def _merged(self, living: Collection[int]) -> Collection[Metric]:
        files = [str(path) for path in self._files() if _counts(path.name, living)]
        try:
            return _merge(files)
        except Exception:  # a file that was removed since, or one that code of the application has damaged
            return _merge([path for path in files if self._is_readable(path)])

    def _files(self) -> list[Path]:
        return sorted(self._directory.glob("*.db"))  # none if the directory was removed

    def _is_readable(self, path: str) -> bool:
        try:
            _merge([path])
        except FileNotFoundError:
            return False
        except Exception as error:
            more = self._unread.spend(time.monotonic())
            if more is not None:
                facts = log_event("user_metrics_unreadable", path=path, error=repr(error))
                _LOG.warning("the metrics in %s cannot be read: %r%s", path, error, more, extra=facts)
            return False
        return True


def _counts(name: str, living: Collection[int]) -> bool:
    """Whether a file is one of ours, and for gauges whether its process lives."""
    match = _FILE.fullmatch(name)
    return match is not None and (match["gauge"] is None or int(match["slot"]) in living)


def _merge(files: Sequence[str]) -> Collection[Metric]:
    return cast(Collection[Metric], cast(Any, MultiProcessCollector).merge(files))
