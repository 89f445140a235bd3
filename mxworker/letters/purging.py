"""Remove letters from a queue, after they were written to a file.

All chosen letters are on the disk, in a file that is complete, before the first of them is acked. So when the command
is killed, a letter is in the file, in the queue, or in both.
"""

from __future__ import annotations

from collections.abc import Callable

from mxworker.api.delivery import Delivery
from mxworker.letters.holding import Hold, depth
from mxworker.letters.letter import Letter, letter_of
from mxworker.letters.letter_file import LetterFile
from mxworker.letters.lock import locked
from mxworker.letters.plan import Plan
from mxworker.letters.taking import Source

Purged = Callable[[Letter], None]


async def purge(source: Source, plan: Plan, file: LetterFile, on_purged: Purged) -> int:
    """Write the chosen letters to `file`, complete it, and remove them; return how many were removed.

    `on_purged` is called for each letter, before its ack. `plan.left` then has how many were not there any more. Raises
    BrokerError, OSError, or what `on_purged` raised.
    """
    chosen: list[tuple[Letter, Delivery]] = []

    def take(delivery: Delivery) -> None:
        letter, original = letter_of(delivery)
        if plan.takes(letter.key):
            file.write(letter, original)
            delivery.body = delivery.raw_properties = b""  # it is good for its ack alone from now on
            chosen.append((letter, delivery))

    async with locked(source.connection, source.name):
        hold = Hold(source.connection, source.name, take)
        try:
            there = await depth(source.connection, source.name)
            await hold.take(lambda: hold.taken >= there)
            letters = chosen.copy()  # what comes from now on is not in the file
            file.complete()
            return sum(_remove(hold, letter, delivery, on_purged) for letter, delivery in letters)
        finally:
            await hold.close()


def _remove(hold: Hold, letter: Letter, delivery: Delivery, on_purged: Purged) -> bool:
    on_purged(letter)
    return hold.ack(delivery)
