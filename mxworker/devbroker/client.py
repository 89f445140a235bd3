"""What the parts of a channel know of the connection they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from pamqp import frame as codec
from pamqp.base import Frame

from mxworker.devbroker.settings import Limits
from mxworker.devbroker.vhost import VirtualHost


class Client(Protocol):
    """The connection of a channel."""

    user: str
    frame_max: int

    @property
    def is_writable(self) -> bool:
        """Whether the client takes what is sent to it."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What the client says it can do."""

    def write(self, data: bytes) -> None:
        """Send bytes; they leave once per turn of the event loop."""


@dataclass(frozen=True, eq=False)
class Line:
    """The number of a channel, with the ways to its client and to the virtual host."""

    number: int
    client: Client
    vhost: VirtualHost
    limits: Limits

    def send(self, method: Frame) -> None:
        """Send a method."""
        self.client.write(codec.marshal(method, self.number))
