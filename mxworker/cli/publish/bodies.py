"""The bodies that `mxworker publish` sends, one by one: of a command line, of stdin, or of a file's lines.

A body is read when it is needed, so a file may have any size. Each comes with the name of its place, for errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import BinaryIO

from mxworker.errors import ConfigError, EncodeError
from mxworker.payloads.content_types import BYTES, JSON, TEXT
from mxworker.system.printable import foreign

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Body:
    """A body. `place` is where it is from, `read_bytes` how much of its source was read with it.

    `fault` is why it cannot be sent, None when it can.
    """

    content: bytes
    content_type: str
    place: str
    read_bytes: int = 0
    fault: str | None = None


def same(content: bytes, content_type: str, count: int) -> Iterator[Body]:
    """Yield one body `count` times."""
    for number, body in enumerate(repeat(content, count), 1):
        yield Body(body, content_type, f"message {number}")


def whole(stream: BinaryIO, most_bytes: int) -> bytes:
    """Return all that a stream has. Raises EncodeError when that is more than `most_bytes`."""
    content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise EncodeError(f"stdin has more than {most_bytes} bytes, the limit of a body")
    return content


def content_type_of(content: bytes) -> str:
    """Return the content type of a body that somebody typed: JSON, text or bytes."""
    try:
        content.decode()
    except UnicodeDecodeError:
        return BYTES
    return JSON if _is_json(content) else TEXT


def size_of(path: str) -> int | None:
    """Return the size of a file in bytes, None when that is not known, as of a pipe."""
    file = Path(path)
    return file.stat().st_size if path != STDIN and file.is_file() else None


class Lines:
    """The lines of a file of JSON, or of stdin. Use it as a context manager."""

    def __init__(self, path: str, stdin: BinaryIO, most_bytes: int) -> None:
        """`most_bytes` is the limit of a line. Raises ConfigError when the file cannot be read."""
        self._name = "stdin" if path == STDIN else foreign(path)
        self._most_bytes = most_bytes
        self._is_stdin = path == STDIN
        try:
            self._stream = stdin if self._is_stdin else Path(path).open("rb")  # noqa: SIM115  closed by __exit__
        except OSError as error:
            raise ConfigError(f"'{self._name}' cannot be read: {error.strerror}.") from error

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_stdin:
            self._stream.close()

    def __iter__(self) -> Iterator[Body]:
        """Yield a body for each line that is not blank."""
        number = 0
        while line := self._stream.readline(self._most_bytes + 1):
            number += 1
            place, size_bytes = f"line {number} of {self._name}", len(line)
            if not line.endswith(b"\n") and size_bytes > self._most_bytes:
                size_bytes += self._skip_line()
                yield Body(b"", JSON, place, size_bytes, f"it has more than {self._most_bytes} bytes")
            elif content := line.strip():
                yield Body(content, JSON, place, size_bytes, None if _is_json(content) else "it is no JSON")

    def _skip_line(self) -> int:
        """Read to the end of a line that is too long; return how much that was."""
        skipped = 0
        while part := self._stream.readline(1 << 20):
            skipped += len(part)
            if part.endswith(b"\n"):
                break
        return skipped


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
