"""Decides what a pool does next for the borrowers that wait for a channel. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Supply:
    """What one connection has for borrowers."""

    is_up: bool
    has_idle: bool
    """Whether a channel could be lent at once."""
    opening: int
    """How many channels are being opened, each for one waiting borrower."""
    room: int
    """How many more channels could be opened now."""


@dataclass(frozen=True, slots=True)
class Lend:
    """Lend an idle channel of the connection with this index to the borrower that has waited longest."""

    connection: int


@dataclass(frozen=True, slots=True)
class Open:
    """Start to open this many channels on the connection with this index."""

    connection: int
    channels: int


@dataclass(frozen=True, slots=True)
class Connect:
    """Open one more connection."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for now."""


Step = Lend | Open | Connect | Wait


def next_step(waiting: int, supplies: Sequence[Supply], max_channels: int, may_connect: bool) -> Step:
    """Return the next step while `waiting` borrowers wait. Do the step and ask again, until the step is to wait.

    `supplies` are the connections in the order of their use, each with up to `max_channels` channels. `may_connect`
    tells whether one more connection may be opened.
    """
    # There are five cases, in the order of their cost:
    #
    # 1. A channel is idle. It is lent.
    # 2. A channel is being opened for each waiting borrower. The borrowers wait for those.
    # 3. A live connection may have more channels. They are opened.
    # 4. Connections that are not up will have enough channels. The borrowers wait for those.
    # 5. One more connection may be opened. It is opened.
    #
    # Otherwise all channels are lent: a borrower gets one that is put back, or is refused after its time.
    for index, supply in enumerate(supplies):
        if supply.has_idle and waiting:
            return Lend(index)
    missing = waiting - sum(supply.opening for supply in supplies)
    if missing <= 0:
        return Wait()
    for index, supply in enumerate(supplies):
        if supply.room:
            return Open(index, min(missing, supply.room))
    coming = max_channels * sum(not supply.is_up for supply in supplies)
    if coming < missing and may_connect:
        return Connect()
    return Wait()
