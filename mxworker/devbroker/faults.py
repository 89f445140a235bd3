"""What a client did wrong: the reply codes of AMQP 0-9-1 with RabbitMQ's names for them.

A fault closes the channel or the whole connection; its code decides which (AMQP 0-9-1, 1.2 "constants").
"""

from __future__ import annotations

from types import MappingProxyType

NAMES = MappingProxyType(
    {
        311: "CONTENT_TOO_LARGE",
        313: "NO_CONSUMERS",
        320: "CONNECTION_FORCED",
        402: "INVALID_PATH",
        403: "ACCESS_REFUSED",
        404: "NOT_FOUND",
        405: "RESOURCE_LOCKED",
        406: "PRECONDITION_FAILED",
        501: "FRAME_ERROR",
        502: "SYNTAX_ERROR",
        503: "COMMAND_INVALID",
        504: "CHANNEL_ERROR",
        505: "UNEXPECTED_FRAME",
        506: "RESOURCE_ERROR",
        530: "NOT_ALLOWED",
        540: "NOT_IMPLEMENTED",
        541: "INTERNAL_ERROR",
    }
)
_OF_A_CHANNEL = frozenset({311, 313, 403, 404, 405, 406})
_LONGEST_TEXT_BYTES = 255


class Fault(Exception):
    """A refused request. `text` is the reply text that the client gets, the name of the code in front."""

    def __init__(self, code: int, explanation: str) -> None:
        super().__init__(f"{code} {explanation}")
        self.code = code
        self.text = _fitting(f"{NAMES[code]} - {explanation}")

    @property
    def is_of_channel(self) -> bool:
        """Whether the fault closes one channel only."""
        return self.code in _OF_A_CHANNEL


class ConnectionFault(Fault):
    """A fault that closes the connection, whatever its code is."""

    @property
    def is_of_channel(self) -> bool:
        """Never."""
        return False


def access_refused(explanation: str) -> Fault:
    """Return a fault for what nobody may do."""
    return Fault(403, explanation)


def not_found(explanation: str) -> Fault:
    """Return a fault for a thing that is missing."""
    return Fault(404, explanation)


def precondition_failed(explanation: str) -> Fault:
    """Return a fault for a thing that is another one than the client says."""
    return Fault(406, explanation)


def _fitting(text: str) -> str:
    """Cut `text` to the length of a short string, as RabbitMQ does. Octets that are not UTF-8 are escaped."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    raw = text.encode()
    if len(raw) <= _LONGEST_TEXT_BYTES:
        return text
    return raw[: _LONGEST_TEXT_BYTES - 3].decode("utf-8", "ignore") + "..."
