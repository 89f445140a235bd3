"""How addresses are written."""

from __future__ import annotations

import pytest

from mxworker.errors import ConfigError
from mxworker.observer.http.addresses import Address


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:9191", "127.0.0.1", 9191),
        ("[::1]:80", "::1", 80),
        ("localhost:0", "localhost", 0),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
        ("8080", "127.0.0.1", 8080),
        (":8080", "127.0.0.1", 8080),
        (" 127.0.0.1:1 ", "127.0.0.1", 1),
    ],
)
def test_address_is_a_host_and_a_port(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", "host", "host:", "::1:80", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:x", "http://127.0.0.1:80/"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match=r"Write it like 127\.0\.0\.1:9191"):
        Address.parse(text)


def test_address_is_shown_as_it_is_written() -> None:
    assert str(Address("::1", 80)) == "[::1]:80"
    assert str(Address()) == "127.0.0.1:9191"
