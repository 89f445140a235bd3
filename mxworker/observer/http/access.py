"""Who may see what: which names of hosts are ours, and who has the token. Pure.

The check of the Host header stops pages of other sites that let their own name point to our address (DNS rebinding):
a browser then still sends that name.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

ANY_HOST = "*"
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True)
class Access:
    """What a client must know. `address` is the one that is served, as a number; `hosts` are more names for it."""

    address: str
    hosts: Collection[str] = ()
    token: bytes | None = None
    """What clients need for anything but metrics and probes; None when they need nothing."""

    def is_our_host(self, host: str | None) -> bool:
        """Whether a Host header names this service. No browser leaves the header out, so nothing is lost without it.

        When all addresses of the machine are served, any address is ours: a page's own name is never an address.
        """
        if host is None:
            return True
        name = name_in(host)
        if name is None:
            return False
        if name == self.address or name in _LOCAL or name in self.hosts or ANY_HOST in self.hosts:
            return True
        return ipaddress.ip_address(self.address).is_unspecified and _is_address(name)

    def is_entitled(self, authorization: str | None) -> bool:
        """Whether an Authorization header has the token, as a bearer token or as the password of any user."""
        if self.token is None:
            return True
        given = _token_in(authorization or "")
        return given is not None and hmac.compare_digest(given, self.token)


def name_in(host: str) -> str | None:
    """Return the name or address in a Host header without its port, in lower case; None when there is none.

    The port does not matter: it is another one behind a tunnel.
    """
    if host.startswith("["):
        name, end, port = host[1:].partition("]")
        return name.lower() if end and _is_address(name) and (not port or port.startswith(":")) else None
    return host.partition(":")[0].lower().rstrip(".") or None


def is_loopback(address: str) -> bool:
    """Whether an address, as a number, can only be reached from this machine."""
    return ipaddress.ip_address(address).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _token_in(authorization: str) -> bytes | None:
    scheme, _, value = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip().encode("utf-8", "surrogateescape")
        case "basic":
            try:
                return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                return None
    return None
