"""The routes of publishes: each exchange and routing key has one `Route`, with the channel that keeps its order."""

from __future__ import annotations

from mxworker.api.message import DIRECT_REPLY_PREFIX, check_route_name
from mxworker.errors import EncodeError

_REMEMBERED = 4096


class Route:
    """The exchange and routing key of publishes. They share the object, and two routes are equal only if identical.

    `channel` is the number of the channel that keeps the order of this exchange and routing key. When no queue takes a
    publish, the broker returns it if it is `mandatory`, and only confirms it otherwise.
    """

    __slots__ = ("channel", "exchange", "mandatory", "routing_key")

    def __init__(self, exchange: str, routing_key: str, channel: int, mandatory: bool = True) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.channel = channel
        self.mandatory = mandatory

    def __str__(self) -> str:
        if not self.exchange:
            return f"queue '{self.routing_key}'"
        return f"exchange '{self.exchange}', routing key '{self.routing_key}'"


class Routes:
    """The routes of one publisher. A route is checked once and then cached, at most 4,096 of them."""

    def __init__(self, channels: int) -> None:
        """Spread routes over channels 0 to `channels` - 1."""
        self._channels = channels
        self._known: dict[tuple[str, str, bool], Route] = {}

    def find(self, exchange: str, routing_key: str, mandatory: bool) -> Route:
        """Return the route. Raises EncodeError for a name that AMQP cannot send, and for a `mandatory` that is no bool.

        Direct replies are never mandatory: the broker also returns those that arrive
        (https://www.rabbitmq.com/docs/direct-reply-to).
        """
        if mandatory is not True and mandatory is not False:  # 1 equals True as a key
            raise EncodeError(f"mandatory must be True or False, not {mandatory!r}")
        try:
            return self._known[exchange, routing_key, mandatory]
        except (KeyError, TypeError):
            return self._add(exchange, routing_key, mandatory)

    def _add(self, exchange: str, routing_key: str, mandatory: bool) -> Route:
        check_route_name("exchange", exchange)
        check_route_name("routing_key", routing_key)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        is_direct_reply = not exchange and routing_key.startswith(DIRECT_REPLY_PREFIX)
        channel = hash((exchange, routing_key)) % self._channels
        route = Route(exchange, routing_key, channel, mandatory and not is_direct_reply)
        self._known[exchange, routing_key, mandatory] = route
        return route
