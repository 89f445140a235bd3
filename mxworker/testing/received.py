"""A message as a test sees it: what a handler published, a dead letter, or what waits in a queue."""

from __future__ import annotations

from typing import Any, cast

from mxworker.api.decoder import decoder_for
from mxworker.api.delivery import Delivery, Source
from mxworker.payloads.compression import decompress
from mxworker.wire.properties import Properties

_decode = decoder_for(Any)
_NO_SOURCE = cast(Source, None)  # nobody settles it


class Received:
    """A message that a broker has received."""

    def __init__(self, body: bytes, raw_properties: bytes, raw_route: bytes) -> None:
        """`raw_route` are the exchange and the routing key, each as a short string of AMQP."""
        self._delivery = Delivery(body, raw_properties, raw_route, False, 0, _NO_SOURCE)

    @property
    def exchange(self) -> str:
        """The exchange that it was published to; "" is the default one."""
        return self._delivery.exchange

    @property
    def routing_key(self) -> str:
        """Its routing key; with the default exchange that is the name of its queue."""
        return self._delivery.routing_key

    @property
    def body(self) -> bytes:
        """Its body as it was sent."""
        return self._delivery.body

    @property
    def message_id(self) -> str | None:
        """Its id."""
        return self._delivery.message_id

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers. Those of a dead letter tell of its failure, in names that begin with `mx-`."""
        return self._delivery.headers

    @property
    def properties(self) -> Properties:
        """Its properties."""
        return self._delivery.properties

    @property
    def payload(self) -> Any:
        """Its body, decompressed and decoded by its content type. Raises DecodeError."""
        return _decode(self._delivery, decompress(self.body, self.properties.content_encoding or ""))

    def __repr__(self) -> str:
        place = f"exchange {self.exchange!r}, key {self.routing_key!r}" if self.exchange else repr(self.routing_key)
        return f"<message to {place}: {self.body[:200].decode(errors='backslashreplace')}>"
