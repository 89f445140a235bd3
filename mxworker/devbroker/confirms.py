"""Which publishes of a channel are to be confirmed. Pure.

Publishes are decided in their order, so those accepted one after another are told in one basic.ack(multiple).
"""

from __future__ import annotations

from mxworker.devbroker.frames import ACK, NACK, settlement


class Confirms:
    """The publishes of one channel since confirm.select."""

    def __init__(self, channel: int) -> None:
        self._channel = channel
        self._last_tag = 0
        self._accepted = 0  # how many of the last ones were accepted, and not told yet

    def decide(self, accepted: bool) -> bytes:
        """Count a publish; return what has to be sent at once, which is something only for a refused one."""
        self._last_tag += 1
        if accepted:
            self._accepted += 1
            return b""
        refused = self._last_tag
        self._last_tag -= 1
        told = self.flush()
        self._last_tag = refused
        return told + settlement(self._channel, NACK, refused, False)

    def flush(self) -> bytes:
        """Return the confirm for what was accepted since the last one; b"" for nothing."""
        if not self._accepted:
            return b""
        multiple = self._accepted > 1
        self._accepted = 0
        return settlement(self._channel, ACK, self._last_tag, multiple)
