"""Letters go into files and come back whole; a purge removes none that is not on the disk."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxworker.brokers import Brokers
from mxworker.errors import ConfigError
from mxworker.letters.connecting import connected
from mxworker.letters.filters import Filters
from mxworker.letters.importing import Imported, import_letters
from mxworker.letters.letter import Letter
from mxworker.letters.letter_file import LetterFile
from mxworker.letters.looking import look
from mxworker.letters.moving import Moves, Way
from mxworker.letters.plan import Plan
from mxworker.letters.purging import purge
from mxworker.letters.taking import Source
from tests.broker.letters.dead import Dead, letter, numbers
from tests.rabbit.client import Client, Received
from tests.rabbit.raw import field, raw_properties, table

WAIT_S = 30.0
LETTERS = 30


def facts(received: Received) -> dict[str, object]:
    """Return the headers without the broker's own count."""
    return {name: value for name, value in received.headers.items() if name != "x-delivery-count"}


class Files:
    """Exports, purges and imports within this process."""

    def __init__(self, url: str, dead: Dead, folder: Path) -> None:
        self._brokers = Brokers.parse([url])
        self._dead = dead
        self.path = folder / "letters.ndjson"

    async def export(self) -> None:
        file = LetterFile(self.path)
        async with connected(self._brokers, WAIT_S) as connection:
            await look(connection, self._brokers, self._dead.name, file.write, WAIT_S)
        file.complete()
        file.close()

    async def purge(self, file: LetterFile, filters: Filters | None = None) -> list[str]:
        plan = Plan(filters or Filters())
        purged: list[str] = []

        def note(found: Letter) -> None:
            purged.append(str(found.message_id))

        try:
            async with connected(self._brokers, WAIT_S) as connection:
                await look(connection, self._brokers, self._dead.name, lambda each, _: plan.see(each), WAIT_S)
                await purge(Source(connection, self._brokers, self._dead.name, WAIT_S), plan, file, note)
        finally:
            file.close()
        return purged

    async def import_all(self) -> tuple[Moves, Imported]:
        letters = Imported(self.path, Filters())
        async with connected(self._brokers, WAIT_S) as connection:
            source = Source(connection, self._brokers, self._dead.name, WAIT_S)
            return await import_letters(source, letters, Way(self._dead.name)), letters


@pytest.fixture
def dead(admin: Client, queue_name: str) -> Iterator[Dead]:
    made = Dead(admin, queue_name)
    made.put(map(letter, range(LETTERS)))
    return made


@pytest.fixture
def files(broker_url: str, dead: Dead, tmp_path: Path) -> Files:
    return Files(broker_url, dead, tmp_path)


async def test_letters_come_back_whole_from_a_file(files: Files, dead: Dead, admin: Client) -> None:
    hostile = raw_properties(
        headers=table(field(b"mx-error", b"S", b"\x00\x00\x00\x02\xff\xfe")), message_id=b"odd \xff"
    )
    admin.publish_raw(dead.name, b"\x00\xff", hostile)
    await files.export()
    assert stat.S_IMODE(files.path.stat().st_mode) == 0o600
    before = dead.take()
    moves, _ = await files.import_all()
    assert (moves.moved, moves.stopped) == (LETTERS + 1, None)
    after = dead.take()
    assert [each.body for each in after] == [each.body for each in before]
    assert [facts(each) for each in after[:-1]] == [facts(each) for each in before[:-1]]
    assert b"odd \xff" in after[-1].raw_properties


async def test_import_that_is_repeated_adds_nothing(files: Files, dead: Dead) -> None:
    await files.export()
    taken = dead.take()
    dead.put(map(letter, range(10)))  # as an import that was interrupted would leave it
    moves, letters = await files.import_all()
    assert (moves.moved, letters.already_there) == (len(taken) - 10, 10)
    assert numbers(dead.take()) == list(range(LETTERS))


async def test_file_with_a_wrong_line_is_refused_before_anything_is_published(files: Files, dead: Dead) -> None:
    await files.export()
    dead.take()
    files.path.write_text(files.path.read_text() + '{"format": 1}\n')
    with pytest.raises(ConfigError, match=f"line {LETTERS + 1} of"):
        await files.import_all()
    assert dead.count == 0


async def test_purge_removes_what_is_in_its_file(files: Files, dead: Dead) -> None:
    purged = await files.purge(LetterFile(files.path), Filters(ids=("order-3", "order-7")))
    assert purged == ["order-3", "order-7"]
    assert [json.loads(line)["message_id"] for line in files.path.read_text().splitlines()] == purged
    assert numbers(dead.take()) == [number for number in range(LETTERS) if number not in (3, 7)]


@pytest.mark.parametrize("step", ["write", "complete"])
async def test_purge_whose_file_cannot_be_written_removes_nothing(files: Files, dead: Dead, step: str) -> None:
    file = LetterFile(files.path)

    def full(*_: object) -> None:
        raise OSError("disk full")

    setattr(file, step, full)
    with pytest.raises(OSError, match="disk full"):
        await files.purge(file)
    assert list(files.path.parent.iterdir()) == []
    assert numbers(dead.take()) == list(range(LETTERS))


async def test_file_that_is_there_is_not_overwritten(files: Files) -> None:
    files.path.write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        LetterFile(files.path)
    assert files.path.read_text() == "mine"
