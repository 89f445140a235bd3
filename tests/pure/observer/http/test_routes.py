"""Which request gets which reply: hosts, methods, paths and tokens."""

from __future__ import annotations

import base64
from http import HTTPStatus

import pytest

from mxworker.observer.http.access import Access, is_loopback
from mxworker.observer.http.reply import Reply, Request, header_lines, text_reply
from mxworker.observer.http.routes import reply_to

TOKEN = b"0123456789abcdef"
ROUTES = {
    path: lambda request, path=path: text_reply(path) for path in ("/metrics", "/livez", "/readyz", "/status.json", "/")
}


def ask(target: str = "/metrics", access: Access | None = None, **changed: str | None) -> Reply:
    fields = {"method": "GET", "host_header": "127.0.0.1:9191", "authorization": None, "accept": ""} | changed
    request = Request(target=target, **fields)  # type: ignore[arg-type]
    return reply_to(request, access or Access("127.0.0.1"), ROUTES)


# ---- hosts


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:9191",
        "127.0.0.1",
        "localhost:9191",
        "LOCALHOST",
        "localhost.",
        "[::1]:9191",
        "[::1]",
        "localhost:1",
        "proxy.example",
        "Proxy.Example:443",
        None,
    ],
)
def test_host_that_is_ours_is_served(host: str | None) -> None:
    assert ask(access=Access("127.0.0.1", {"proxy.example"}), host_header=host).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9191",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example?127.0.0.1",
        "10.0.0.1",
        "[::2]",
        "[::1",
        "[::1]x",
        "[evil.example]:80",
        "::1",
        "",
        ":9191",
        ".",
        "127.0.0.1@evil.example",
        "2130706433",
        "proxy.example ",
    ],
)
def test_foreign_host_is_refused(host: str) -> None:
    reply = ask(access=Access("127.0.0.1", {"proxy.example"}), host_header=host)
    assert reply.status == HTTPStatus.MISDIRECTED_REQUEST
    assert b"--http-host" in reply.body


def test_any_address_is_ours_when_all_are_served_but_no_name() -> None:
    everywhere = Access("0.0.0.0", token=TOKEN)
    assert ask(access=everywhere, host_header="10.1.2.3:9191").status == 200
    assert ask(access=everywhere, host_header="[2001:db8::1]:9191").status == 200
    assert ask(access=everywhere, host_header="evil.example").status == HTTPStatus.MISDIRECTED_REQUEST
    assert ask(access=Access("10.1.2.3", token=TOKEN), host_header="10.1.2.4").status == HTTPStatus.MISDIRECTED_REQUEST


def test_every_host_is_ours_when_the_operator_says_so() -> None:
    assert ask(access=Access("127.0.0.1", {"*"}), host_header="whatever.example").status == 200


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://127.0.0.1:9191/metrics", "/metrics"),
        ("HTTP://LOCALHOST/metrics?name=x", "/metrics"),
        ("https://[::1]:9191/livez", "/livez"),
        ("http://localhost", "/"),
        ("http://localhost?x=/metrics", "/"),
    ],
)
@pytest.mark.parametrize("header", [None, "localhost", "evil.example"])
def test_host_of_an_absolute_target_counts_and_not_that_of_the_header(
    target: str, path: str, header: str | None
) -> None:
    assert ask(target, host_header=header).body == f"{path}\n".encode()


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/metrics", "http:///metrics", "http://localhost@evil.example/", "http://me@localhost/livez"],
)
def test_absolute_target_of_a_foreign_host_is_refused(target: str) -> None:
    assert ask(target, host_header="localhost").status == HTTPStatus.MISDIRECTED_REQUEST


@pytest.mark.parametrize(
    ("address", "only_here"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("10.0.0.1", False)],
)
def test_loopback_is_known(address: str, only_here: bool) -> None:
    assert is_loopback(address) is only_here


# ---- methods and paths


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "get", "WHATEVER"])
def test_only_reading_is_allowed(method: str) -> None:
    reply = ask(method=method)
    assert reply.status == HTTPStatus.METHOD_NOT_ALLOWED
    assert ("Allow", "GET, HEAD") in reply.headers


def test_head_is_answered_as_get() -> None:
    assert ask(method="HEAD") == ask(method="GET")


@pytest.mark.parametrize("target", ["/metrics", "/metrics?name=x", "/metrics?", "/metrics?a=/../b"])
def test_query_is_ignored(target: str) -> None:
    assert ask(target).body == b"/metrics\n"


@pytest.mark.parametrize(
    "target",
    [
        "/metrics/",
        "//metrics",
        "/./metrics",
        "/x/../metrics",
        "/%6detrics",
        "/metrics%00",
        "/METRICS",
        "/metrics;x",
        "/metrics#x",
        "metrics",
        "http:/metrics",
        "ftp://127.0.0.1/metrics",
        "*",
        "/../../etc/passwd",
        "/static/../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/\\..\\etc",
        "",
        "/nothing",
    ],
)
def test_path_must_be_that_of_a_route_to_the_letter(target: str) -> None:
    assert ask(target).status == HTTPStatus.NOT_FOUND


# ---- tokens


def bearer(token: bytes) -> str:
    return f"Bearer {token.decode()}"


def basic(token: bytes, user: bytes = b"me") -> str:
    return "Basic " + base64.b64encode(user + b":" + token).decode()


@pytest.mark.parametrize("target", ["/", "/status.json", "/nothing"])
def test_all_but_metrics_and_probes_needs_the_token_if_there_is_one(target: str) -> None:
    access = Access("0.0.0.0", token=TOKEN)
    reply = ask(target, access)
    assert reply.status == HTTPStatus.UNAUTHORIZED
    challenges = [value.partition(" ")[0] for name, value in reply.headers if name == "WWW-Authenticate"]
    assert challenges == ["Basic", "Bearer"]
    for path in ("/metrics", "/livez", "/readyz"):
        assert ask(path, access).status == 200


@pytest.mark.parametrize("given", [bearer(TOKEN), f"bearer  {TOKEN.decode()} ", basic(TOKEN), basic(TOKEN, b"")])
def test_token_is_taken_from_a_bearer_or_a_password(given: str) -> None:
    assert ask("/status.json", Access("0.0.0.0", token=TOKEN), authorization=given).status == 200


@pytest.mark.parametrize(
    "given",
    [
        bearer(TOKEN[:-1]),
        bearer(TOKEN + b"0"),
        bearer(b""),
        basic(TOKEN[1:]),
        basic(b"", TOKEN),
        "Basic " + base64.b64encode(TOKEN).decode(),
        "Basic ***",
        "Basic ü",
        f"Digest {TOKEN.decode()}",
        TOKEN.decode(),
        "",
        "Bearer \udcff\xff",
    ],
)
def test_another_token_is_none(given: str) -> None:
    access = Access("0.0.0.0", token=TOKEN)
    assert ask("/status.json", access, authorization=given).status == HTTPStatus.UNAUTHORIZED


def test_token_does_not_help_a_foreign_host() -> None:
    reply = ask("/", Access("0.0.0.0", token=TOKEN), host_header="evil.example", authorization=bearer(TOKEN))
    assert reply.status == HTTPStatus.MISDIRECTED_REQUEST


# ---- headers


def test_every_reply_forbids_what_a_browser_might_do_with_it() -> None:
    lines = dict(header_lines(text_reply("x"), "today"))
    assert lines["X-Content-Type-Options"] == "nosniff"
    assert lines["Content-Security-Policy"].startswith("default-src 'none';")
    assert "frame-ancestors 'none'" in lines["Content-Security-Policy"]
    assert lines["Cache-Control"] == "no-store"
    assert lines["Referrer-Policy"] == "no-referrer"
    assert lines["Content-Length"] == "2"
    assert not any(name.lower().startswith("access-control") for name in lines)
