"""The outcomes of unconfirmed publishes that follow from the reason for which the broker closed their channel.

The broker handles the publishes of a channel in order: it took those before the refused publish, and none after it. The
reason has no delivery tag, so most often the refused publish is not known, and the fate of all of them is unknown.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mxworker.amqp.connecting.library_errors import ACCESS_REFUSED, NOT_FOUND
from mxworker.amqp.publishing.publishing import Publishing
from mxworker.errors import ChannelLost, ConnectionLost, MessageTooLarge, PublishError, PublishNacked, Unroutable

# The texts with which RabbitMQ 3.10 to 4.x closes a channel because of a publish.
_TOO_LARGE = re.compile(r"message size \d+ is larger than configured max size (?P<limit>\d+)")
_EXCHANGE = re.compile(r"exchange '(?P<name>[^']*)' in vhost")
_VERDICTS: Mapping[int | None, type[PublishError]] = MappingProxyType(
    {NOT_FOUND: Unroutable, ACCESS_REFUSED: PublishNacked}
)
_WHOLE_EXCHANGE_REFUSED = "access to exchange"  # and not to one of its topics


def refused_exchange(error: ChannelLost | ConnectionLost) -> tuple[str, PublishError] | None:
    """Return the exchange that the broker refused, and the error of publishes to it; None for another reason."""
    named = _EXCHANGE.search(str(error))
    if named is None or not isinstance(error, ChannelLost):
        return None
    verdict = _VERDICTS.get(error.code)
    return None if verdict is None else (named["name"], verdict(str(error)))


def is_refused_as_a_whole(error: ChannelLost | ConnectionLost) -> bool:
    """Whether the broker refuses every publish to that exchange."""
    return isinstance(error, ChannelLost) and error.code == ACCESS_REFUSED and _WHOLE_EXCHANGE_REFUSED in str(error)


def refused_publishes(
    publishings: Sequence[Publishing], error: ChannelLost | ConnectionLost, is_complete: bool
) -> tuple[list[Publishing], PublishError | None]:
    """Return the publishes that the broker certainly did not take, and their error.

    `publishings` are those that were unconfirmed when the channel ended. `is_complete` means that no publish had been
    given up before. When there are several publishes to the refused exchange, the broker may have taken the earlier
    ones, so the result is certain for a single publish only.
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
