"""What the reason for which the broker closed a channel says of the publishes that had no confirm yet.

The broker works off the publishes of a channel in order: it took those before the one that it refused, and none after
it. It names no delivery tag, so most often the refused one cannot be told from the others, and the fate of all is
unknown.

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


def refused_exchange(error: ChannelLost | ConnectionLost) -> tuple[str, PublishError] | None:
    """Return the exchange that the broker names as the reason, and what a publish to it ends in; else None."""
    named = _EXCHANGE.search(str(error))
    if named is None or not isinstance(error, ChannelLost):
        return None
    verdict = _VERDICTS.get(error.code)
    return None if verdict is None else (named["name"], verdict(str(error)))


def is_refused_as_a_whole(error: ChannelLost | ConnectionLost) -> bool:
    """Whether the broker would refuse every other publish to that exchange, too."""
    return isinstance(error, ChannelLost) and error.code == ACCESS_REFUSED and _WHOLE_EXCHANGE_REFUSED in str(error)


def refused_publishes(
    publishings: Sequence[Publishing], error: ChannelLost | ConnectionLost, is_complete: bool
) -> tuple[list[Publishing], PublishError | None]:
    """Return the publishes that the broker certainly did not take, and what they end in.

    `publishings` are those that were unconfirmed when the channel ended; `is_complete` says that no publish had been
    given up before. Of several publishes to the exchange that the broker names, the earlier ones may have been taken,
    so only a single one is certain.
    """
    too_large = _TOO_LARGE.search(str(error))
    if too_large is not None:
        limit_bytes = int(too_large["limit"])
        too_many = MessageTooLarge(f"the broker takes no message of more than {limit_bytes} bytes")
        return [publishing for publishing in publishings if len(publishing.body) > limit_bytes], too_many
    refused = refused_exchange(error)
    if refused is None or not is_complete:
        return [], None
    exchange, refusal = refused
    candidates = [publishing for publishing in publishings if publishing.route.exchange == exchange]
    return (candidates, refusal) if len(candidates) == 1 else ([], None)
