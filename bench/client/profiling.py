"""A profile of what is measured, for programs in Python: `make bench NAME=... ARGS=--profile-cpu`.

A profile costs much by itself, so the figures of such a run say nothing; the shares of its lines do.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import tracemalloc
from pathlib import Path

_LINES = 60
_FRAMES = 3
_path = os.environ.get("BENCH_PROFILE", "")
_kind = os.environ.get("BENCH_PROFILE_KIND", "")


class Profiling:
    """Profiles this thread from `begin` to `end`, if the run asks for it."""

    def __init__(self) -> None:
        self._profile = cProfile.Profile()

    def begin(self) -> None:
        """Begin to profile."""
        if _kind == "cpu":
            self._profile.enable()
        elif _kind == "memory":
            tracemalloc.start(_FRAMES)

    def end(self) -> None:
        """Write the profile."""
        if _kind == "cpu":
            self._profile.disable()
            with Path(_path).open("w", encoding="utf-8") as output:
                pstats.Stats(self._profile, stream=output).sort_stats("tottime").print_stats(_LINES)
        elif _kind == "memory":
            now, peak = tracemalloc.get_traced_memory()
            lines = tracemalloc.take_snapshot().statistics("lineno")[:_LINES]
            text = "\n".join(map(str, lines))
            tracemalloc.stop()
            head = f"{now:,} bytes allocated since the first message are in use, {peak:,} at most were"
            Path(_path).write_text(f"{head}\n\n{text}\n", encoding="utf-8")
