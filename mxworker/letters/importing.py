"""Put the letters of a file into a queue.

Letters that are there already are left out, so that an import that was interrupted can be repeated. They are recognised
by their key; see `Letter` for those without a message id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from mxworker.letters.connecting import publishing
from mxworker.letters.filters import Filters
from mxworker.letters.letter import Original, key_of, letter_in
from mxworker.letters.letter_file import read
from mxworker.letters.lock import locked
from mxworker.letters.looking import look
from mxworker.letters.moving import Move, Moves, Way
from mxworker.letters.taking import Source


class Imported:
    """The letters of a file that match, without those that are in the queue already."""

    def __init__(self, path: Path, filters: Filters) -> None:
        self.matching = 0
        self.already_there = 0
        self._path = path
        self._filters = filters
        self._there: Counter[str] = Counter()

    def check(self) -> None:
        """Read the whole file. Raises ConfigError for a line that is no letter, or OSError."""
        for _ in read(self._path):
            pass

    def note(self, key: str) -> None:
        """Note a letter that is in the queue."""
        self._there[key] += 1

    def __iter__(self) -> Iterator[tuple[Original, Callable[[], bool]]]:
        """Yield the letters, each with nothing to do when it is in the queue. Raises ConfigError and OSError."""
        for original in read(self._path):
            if not self._filters.match(letter_in(original)):
                continue
            self.matching += 1
            key = key_of(original)
            if self._there[key] > 0:
                self._there[key] -= 1
                self.already_there += 1
            else:
                yield original, _done


async def import_letters(source: Source, letters: Imported, way: Way) -> Moves:
    """Put letters of a file into the queue of `source`, which must exist.

    Nothing is published when a line of the file is wrong. Raises BrokerError, ConfigError or OSError.
    """
    letters.check()
    async with locked(source.connection, source.name):
        await look(
            source.connection, source.brokers, source.name, lambda letter, _: letters.note(letter.key), source.wait_s
        )
        async with publishing(source.brokers, source.wait_s) as publisher:
            return await Move(publisher, way).run(letters)


def _done() -> bool:
    return True
