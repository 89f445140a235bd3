"""What a pool does next for those who wait for a channel. Pure: it is told what there is, and returns what to do."""

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
    """How many channels are being opened; each is for one who waits."""
    room: int
    """How many more could be opened now."""


@dataclass(frozen=True, slots=True)
class Lend:
    """Lend an idle channel of the connection with this index to the one who has waited longest."""

    connection: int


@dataclass(frozen=True, slots=True)
class Open:
    """Begin to open so many channels on the connection with this index."""

    connection: int
    channels: int


@dataclass(frozen=True, slots=True)
class Connect:
    """Make one more connection."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing for now."""


Step = Lend | Open | Connect | Wait


def next_step(waiting: int, supplies: Sequence[Supply], max_channels: int, may_connect: bool) -> Step:
    """Return what to do next while so many wait; ask again when it is done, until it is to wait.

    `supplies` are the connections, the one to be used first at the front, each with up to `max_channels` channels;
    `may_connect` is whether there may be one more.
    """
    # There are five cases, in the order of what they cost:
    #
    # 1. A channel is idle. It is lent.
    # 2. For each who waits a channel is being opened already. There is nothing to do but to wait for them.
    # 3. A connection that is up may have more channels. They are opened.
    # 4. Connections that are not up yet, or not any more, will have enough of them. They are waited for.
    # 5. There may be one more connection. It is made.
    #
    # Otherwise all that there may be is lent: who waits gets what comes back, or is refused when the time is up.
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
