"""Which request gets which reply. Pure: what a reply says is made by functions that are passed in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus

from mxworker.observer.http.access import Access
from mxworker.observer.http.reply import Reply, Request, text_reply

METRICS = "/metrics"
LIVEZ = "/livez"
READYZ = "/readyz"
_OPEN = frozenset({METRICS, LIVEZ, READYZ})
"""The paths that never need a token."""
_METHODS = ("GET", "HEAD")
_CHALLENGES = (("WWW-Authenticate", 'Basic realm="mxworker"'), ("WWW-Authenticate", "Bearer"))

Route = Callable[[Request], Reply]


def reply_to(request: Request, access: Access, routes: Mapping[str, Route]) -> Reply:
    """Return the reply to a request. A path must be that of a route to the letter."""
    if not access.is_our_host(request.host):
        return text_reply(
            "This host name is not one of this service. Name it with --http-host.", HTTPStatus.MISDIRECTED_REQUEST
        )
    if request.method not in _METHODS:
        return text_reply(
            "Everything here can only be read.", HTTPStatus.METHOD_NOT_ALLOWED, ("Allow", ", ".join(_METHODS))
        )
    route = routes.get(request.path)
    if request.path not in _OPEN and not access.is_entitled(request.authorization):
        text = "This needs the token of --http-token-file: as a bearer token, or as a password with any user name."
        return text_reply(text, HTTPStatus.UNAUTHORIZED, *_CHALLENGES)
    if route is None:
        return text_reply(f"There is nothing here. See: {'  '.join(routes)}", HTTPStatus.NOT_FOUND)
    return route(request)
