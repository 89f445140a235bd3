"""Files of letters. A file has its name only when it is complete and on the disk; nobody but its owner can read it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mxworker.errors import ConfigError, DecodeError
from mxworker.letters.file_format import from_line, to_line
from mxworker.letters.letter import Letter, Original
from mxworker.system.printable import foreign

PART = ".part"


class LetterFile:
    """A new file that is written letter by letter. Without `complete`, as after an error, it is removed by `close`."""

    def __init__(self, path: Path) -> None:
        """Create the file under a name that ends with `.part`. Raises ConfigError when one of both exists."""
        self._path = path
        self._part = path.with_name(path.name + PART)
        if path.exists():
            raise ConfigError(f"'{foreign(path)}' exists already; name another file.")
        try:
            descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            raise ConfigError(
                f"'{foreign(self._part)}' exists already: another command writes it, or one was interrupted. "
                "Remove it, or name another file."
            ) from None
        except OSError as error:
            raise ConfigError(f"'{foreign(self._part)}' cannot be written: {error.strerror}.") from error
        self._file = os.fdopen(descriptor, "w", encoding="ascii")
        self._is_complete = False

    def write(self, letter: Letter, original: Original) -> None:
        """Add a letter. Raises OSError."""
        self._file.write(to_line(letter, original) + "\n")

    def complete(self) -> None:
        """Have all letters on the disk, and give the file its name. Raises OSError."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.rename(self._path)
        self._is_complete = True
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """Close the file, and remove it when it is not complete."""
        try:
            self._file.close()
        except OSError:  # the disk is full: what made it so was raised before
            pass
        if not self._is_complete:
            self._part.unlink(missing_ok=True)


def read(path: Path) -> Iterator[Original]:
    """Yield the letters of a file, one by one. Raises ConfigError, which names the line, or OSError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield from_line(line)
            except DecodeError as error:
                raise ConfigError(f"line {number} of '{foreign(path)}' is not understood: {error}.") from None
