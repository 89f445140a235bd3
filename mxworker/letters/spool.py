"""Keeps the letters that are to be moved, in the order of their queue, while they are held unsettled.

Small ones stay in memory; beyond `MEMORY_BYTES` they are in a temporary file that nobody else can open, because it has
no name. In memory each letter costs some hundred bytes.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator

from mxworker.api.delivery import Delivery
from mxworker.letters.letter import Original

MEMORY_BYTES = 32 * 1024 * 1024

_sizes = struct.Struct(">QII")


class Spool:
    """Letters in order. You must `close` it."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115  closed by `close`
        self._deliveries: list[Delivery] = []

    def __len__(self) -> int:
        return len(self._deliveries)

    def add(self, original: Original, delivery: Delivery) -> None:
        """Keep a letter. Its delivery loses its body and properties, and is good for its settlement only."""
        self._file.write(_sizes.pack(*map(len, original)))
        self._file.writelines(original)
        delivery.body = delivery.raw_properties = b""
        self._deliveries.append(delivery)

    def clear(self) -> None:
        """Forget all letters."""
        self._deliveries.clear()
        self._file.seek(0)
        self._file.truncate()

    def __iter__(self) -> Iterator[tuple[Original, Delivery]]:
        """Yield all letters in order. Add none meanwhile."""
        self._file.seek(0)
        for delivery in self._deliveries:
            sizes = _sizes.unpack(self._file.read(_sizes.size))
            body, raw_properties, raw_route = map(self._file.read, sizes)
            yield Original(body, raw_properties, raw_route), delivery

    def close(self) -> None:
        """Delete everything."""
        self._file.close()
        self._deliveries.clear()
