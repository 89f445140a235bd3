"""The opening of a connection: who the client is, what both agree on, which virtual host it wants.

Pure: methods in, methods out. The texts are those of RabbitMQ.
"""

from __future__ import annotations

import hmac
import platform
from enum import Enum
from typing import Any

from pamqp import commands, decode
from pamqp.base import Frame

from mxworker import __version__
from mxworker.devbroker.faults import ConnectionFault, Fault
from mxworker.devbroker.frames import MIN_FRAME_MAX
from mxworker.devbroker.settings import Account, Limits

PRODUCT = "mxworker embedded broker"
_MECHANISMS = "PLAIN AMQPLAIN"
_CAPABILITIES = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
)


class Stage(Enum):
    """What has to come next from the client."""

    START_OK = "connection.start-ok"
    TUNE_OK = "connection.tune-ok"
    OPEN = "connection.open"
    DONE = "nothing"


class LoginRefused(ConnectionFault):
    """User or password are wrong."""


class Handshake:
    """Agrees with one client. What was agreed on stands in the attributes when `stage` is DONE."""

    def __init__(self, account: Account, limits: Limits) -> None:
        self.stage = Stage.START_OK
        self.user = ""
        self.capabilities: frozenset[str] = frozenset()
        self.frame_max = MIN_FRAME_MAX
        self.channel_max = limits.channel_max
        self.heartbeat_s = 0
        self.vhost = ""
        self._account = account
        self._limits = limits

    def start(self) -> Frame:
        """Return the first method of the server."""
        return commands.Connection.Start(0, 9, _server_properties(), _MECHANISMS, "en_US")

    def answer(self, method: Frame) -> Frame:
        """Return the answer to the next method of the client; ConnectionFault when it is not acceptable."""
        match self.stage, method:
            case Stage.START_OK, commands.Connection.StartOk():
                self._log_in(method)
                self.stage = Stage.TUNE_OK
                limits = self._limits
                return commands.Connection.Tune(limits.channel_max, limits.frame_max, limits.heartbeat_s)
            case Stage.OPEN, commands.Connection.Open():
                self.vhost = method.virtual_host
                self.stage = Stage.DONE
                return commands.Connection.OpenOk()
            case _:
                raise ConnectionFault(503, f"{method.name} is not expected now")

    def is_told(self, fault: Fault) -> bool:
        """Tell whether the client is to hear of a fault, or the connection ends without a word."""
        if isinstance(fault, LoginRefused):
            return "authentication_failure_close" in self.capabilities
        return self.stage is Stage.OPEN

    def tune(self, method: Frame) -> None:
        """Take connection.tune-ok, which has no answer."""
        if not isinstance(method, commands.Connection.TuneOk):
            raise ConnectionFault(503, f"{method.name} is not expected now")
        _check("frame_max", method.frame_max, MIN_FRAME_MAX, self._limits.frame_max)
        _check("channel_max", method.channel_max, 1, self._limits.channel_max)
        self.frame_max = method.frame_max
        self.channel_max = method.channel_max or 65_535
        self.heartbeat_s = method.heartbeat
        self.stage = Stage.OPEN

    def _log_in(self, method: commands.Connection.StartOk) -> None:
        capabilities = (method.client_properties or {}).get("capabilities")
        if isinstance(capabilities, dict):
            self.capabilities = frozenset(str(name) for name, has in capabilities.items() if has is True)
        user, password = _credentials(method)
        if user != self._account.user or not hmac.compare_digest(password.encode(), self._account.password.encode()):
            raise LoginRefused(
                403,
                f"Login was refused using authentication mechanism {method.mechanism}. "
                "For details see the broker logfile.",
            )
        self.user = user


def _credentials(method: commands.Connection.StartOk) -> tuple[str, str]:
    response: Any = method.response
    raw = response if isinstance(response, bytes) else str(response).encode("utf-8", "replace")
    match method.mechanism:
        case "PLAIN":
            parts = raw.decode("utf-8", "replace").split("\0")
            return (parts[1], parts[2]) if len(parts) == 3 else ("", "")
        case "AMQPLAIN":
            try:
                _, table = decode.field_table(len(raw).to_bytes(4, "big") + raw)
            except ValueError:
                return "", ""
            return str(table.get("LOGIN", "")), str(table.get("PASSWORD", ""))
        case other:
            raise ConnectionFault(503, f"unknown authentication mechanism '{other}'")


def _check(name: str, wanted: int, least: int, most: int) -> None:
    if wanted and wanted < least:
        raise ConnectionFault(530, f"negotiated {name} = {wanted} is lower than the minimum allowed value ({least})")
    if most and (not wanted or wanted > most):
        raise ConnectionFault(530, f"negotiated {name} = {wanted} is higher than the maximum allowed value ({most})")


def _server_properties() -> dict[str, Any]:
    return {
        "product": PRODUCT,
        "version": __version__,
        "platform": f"Python {platform.python_version()}",
        "information": "For development. In memory: messages are lost when it ends.",
        "cluster_name": "mxworker@localhost",
        "capabilities": dict.fromkeys(_CAPABILITIES, True),
    }
