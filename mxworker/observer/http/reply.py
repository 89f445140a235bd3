"""A request as the routes see it, and the reply to it. Pure: nothing here knows sockets or the board."""

from __future__ import annotations

import re
from dataclasses import dataclass
from http import HTTPStatus

TEXT = "text/plain; charset=utf-8"
NOTHING_LOADED = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""The content security policy of a reply that loads nothing and runs no script."""
_ABSOLUTE = re.compile("https?://([^/?#]*)", re.IGNORECASE)
"""The beginning of a target in the form that proxies are sent, with its host and port."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request without a body.

    `target` is as it came, `host_header` and `authorization` are None when they are missing.
    """

    method: str
    target: str
    host_header: str | None
    authorization: str | None
    accept: str

    @property
    def host(self) -> str | None:
        """The host and port of an absolute target, otherwise the Host header (RFC 9112, 3.2.2)."""
        absolute = _ABSOLUTE.match(self.target)
        return self.host_header if absolute is None else absolute[1]

    @property
    def path(self) -> str:
        """The path of the target; nothing in it is decoded or normalised."""
        absolute = _ABSOLUTE.match(self.target)
        if absolute is None:
            return self.target.partition("?")[0]
        return self.target[absolute.end() :].partition("?")[0] or "/"


@dataclass(frozen=True, slots=True)
class Reply:
    """What is sent back. `policy` is its content security policy, `headers` come on top of those of every reply."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = TEXT
    policy: str = NOTHING_LOADED
    headers: tuple[tuple[str, str], ...] = ()


def text_reply(text: str, status: HTTPStatus = HTTPStatus.OK, *headers: tuple[str, str]) -> Reply:
    """Return a reply of one line of text."""
    return Reply(f"{text}\n".encode(), status, headers=headers)


def header_lines(reply: Reply, date: str) -> list[tuple[str, str]]:
    """Return all headers of a reply but those about the connection."""
    return [
        ("Date", date),
        ("Content-Type", reply.content_type),
        ("Content-Length", str(len(reply.body))),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", reply.policy),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Referrer-Policy", "no-referrer"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        *reply.headers,
    ]
