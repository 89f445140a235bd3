"""Which execution of a message a delivery is.

The attempt is counted in a header of ours, and for a delivery that is executed again in its place, in the delivery.
Anybody may have written the header, so it is believed within bounds: every message gets at least one execution, and
none gets more than there may be. Of headers that cannot be split, or are more than a copy may have, no attempt is read.
The broker's own counts are not read: they are of returns, not of executions.

Pure.
"""

from __future__ import annotations

from mxworker.api.delivery import Delivery
from mxworker.errors import DecodeError
from mxworker.wire.origins import ATTEMPT_HEADER, integer_header
from mxworker.wire.properties import split

_ATTEMPT = ATTEMPT_HEADER.encode()


def attempt_of(delivery: Delivery, most: int) -> int:
    """Return which attempt an execution of this delivery is, from 1 to `most`.

    An integer above `most` counts as `most`, anything else that is no attempt as 1. Costs next to nothing when the
    header is not there.
    """
    number = None
    if delivery.raw_properties.find(_ATTEMPT) != -1:  # `in` takes 0.15 us more
        number = _integer(delivery, _ATTEMPT)
    elif not delivery.executed:
        return 1  # nearly always
    attempt = 1 if number is None or number < 1 else number
    return min(most, attempt + delivery.executed)


def _integer(delivery: Delivery, name: bytes) -> int | None:
    """Return a header that is an integer; None when it is missing, is something else, or cannot be read."""
    try:
        return integer_header(split(delivery.raw_properties), name)
    except DecodeError:
        return None
