"""Which publish made the broker close the channel, and what is certain about it.

A channel works off its publishes in order: those before the one that ended it were taken, those after it were not. The
broker names no tag, so most often nobody can be blamed, and the fate of all is unknown.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mxworker.amqp.connecting.library_errors import ACCESS_REFUSED, NOT_FOUND
from mxworker.amqp.publishing.publishing import Publishing
from mxworker.errors import ChannelLost, ConnectionLost, MessageTooLarge, PublishError, PublishNacked, Unroutable

# What RabbitMQ 3.10 to 4.x says when it closes a channel over a publish.
_TOO_LARGE = re.compile(r"message size \d+ is larger than configured max size (?P<limit>\d+)")
_EXCHANGE = re.compile(r"exchange '(?P<name>[^']*)' in vhost")
_VERDICTS: Mapping[int | None, type[PublishError]] = MappingProxyType(
    {NOT_FOUND: Unroutable, ACCESS_REFUSED: PublishNacked}
)
_WHOLE_EXCHANGE_REFUSED = "access to exchange"  # and not to one topic of it


def blamed_exchange(error: ChannelLost | ConnectionLost) -> tuple[str, PublishError] | None:
    """Return the exchange over which the channel was closed, and what a publish to it ends in."""
    named = _EXCHANGE.search(str(error))
    if named is None or not isinstance(error, ChannelLost):
        return None
    verdict = _VERDICTS.get(error.code)
    return None if verdict is None else (named["name"], verdict(str(error)))


def is_refused_as_a_whole(error: ChannelLost | ConnectionLost) -> bool:
    """Whether every publish to the blamed exchange would be refused again."""
    return isinstance(error, ChannelLost) and error.code == ACCESS_REFUSED and _WHOLE_EXCHANGE_REFUSED in str(error)


def culprits(
    publishings: Sequence[Publishing], error: ChannelLost | ConnectionLost, is_complete: bool
) -> tuple[list[Publishing], PublishError | None]:
    """Return the publishes that the broker certainly did not take, and what they end in.

    `publishings` are those that were unconfirmed when the channel ended; `is_complete` says that none had been given up
    before. Of several publishes to the exchange that the broker names, the earlier ones may have been taken, so only a
    single one is certain.
    """
    too_large = _TOO_LARGE.search(str(error))
    if too_large is not None:
        limit_bytes = int(too_large["limit"])
        refusal = MessageTooLarge(f"the broker takes no message of more than {limit_bytes} bytes")
        return [publishing for publishing in publishings if len(publishing.body) > limit_bytes], refusal
    blamed = blamed_exchange(error)
    if blamed is None or not is_complete:
        return [], None
    exchange, verdict = blamed
    suspects = [publishing for publishing in publishings if publishing.exchange == exchange]
    return (suspects, verdict) if len(suspects) == 1 else ([], None)
