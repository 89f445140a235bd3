"""Find out what is at the broker where the code declares a queue, without creating or changing anything.

The broker logs each refusal as an error. So this is for a start that was refused, and not for a worker that consumes.
"""

from __future__ import annotations

from mxworker.amqp.consuming.declaring import Declaring
from mxworker.amqp.consuming.differences import Found, Standing
from mxworker.amqp.consuming.found import FoundQueue
from mxworker.amqp.consuming.probing import Probe
from mxworker.api.topology import Declaration


async def seek(declaring: Declaring, declaration: Declaration) -> Found:
    """Find out whether there is a queue of that name. Raises BrokerError when that cannot be done."""
    is_there = await declaring.exists(declaration.name)
    return Found(declaration, Standing.UNKNOWN if is_there else Standing.MISSING)


async def look(declaring: Declaring, declaration: Declaration) -> Found:
    """Compare a queue with its declaration. Raises BrokerError when that cannot be done."""
    found = await Probe(declaring.connection).queue(declaration.name, declaration.arguments)
    return Found(declaration, _standing(found), found.differences)


def _standing(found: FoundQueue) -> Standing:
    if not found.is_there:
        return Standing.MISSING
    if found.differences:
        return Standing.DIFFERENT
    return Standing.AS_DECLARED if found.is_compared else Standing.UNKNOWN
