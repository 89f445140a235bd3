"""Find out what is at the broker where the code declares a queue, without creating or changing anything.

The broker closes the channel with each refusal, and logs an error. So this is for a start that was refused and for
commands, and not for a worker that consumes.
"""

from __future__ import annotations

from mxworker.amqp.consuming.declaring import Declaring
from mxworker.amqp.consuming.differences import (
    Asked,
    Difference,
    Found,
    Standing,
    as_the_broker_has,
    difference_in,
    in_order,
)
from mxworker.api.topology import Declaration
from mxworker.errors import TopologyRefused

_MOST_DIFFERENCES = 20


async def seek(declaring: Declaring, declaration: Declaration) -> Found:
    """Find out whether there is a queue of that name. Raises BrokerError when that cannot be done."""
    is_there = await declaring.exists(declaration.name)
    return Found(declaration, Standing.UNKNOWN if is_there else Standing.MISSING)


async def look(declaring: Declaring, declaration: Declaration) -> Found:
    """Compare a queue with its declaration. Raises BrokerError when that cannot be done."""
    if not await declaring.exists(declaration.name):
        return Found(declaration, Standing.MISSING)
    try:
        differences = await _differences(declaring, declaration)
    except TopologyRefused as error:
        match error.code:
            case 403:
                return Found(declaration, Standing.UNKNOWN)
            case 405:
                return Found(declaration, Standing.LOCKED)
        raise
    return Found(declaration, Standing.DIFFERENT if differences else Standing.AS_DECLARED, differences)


async def _differences(declaring: Declaring, declaration: Declaration) -> tuple[Difference, ...]:
    """Declare the queue as the code says, and then more and more as the broker has it, until that is accepted."""
    found: list[Difference] = []
    asked: Asked | None = Asked(declaration.arguments)
    while asked is not None and len(found) < _MOST_DIFFERENCES:
        try:
            await declaring.declare(declaration.name, asked)
            break
        except TopologyRefused as error:
            difference = difference_in(error.reply, asked)
            if difference is None and not found:
                raise
            if difference is None:
                break
            found.append(difference)
            asked = as_the_broker_has(asked, difference)
    return in_order(found)
