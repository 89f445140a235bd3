"""A configuration file means what it says, and every mistake in it is named with its place and the way out."""

from __future__ import annotations

import re
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.cli.config.document import Document, parse
from mxworker.config.kinds import Shared
from mxworker.errors import ConfigError


def document(text: str, root: tuple[str, ...] = ()) -> Document:
    found = parse(text, "mxworker.toml", PurePath("/etc/shop"), root)
    assert found is not None
    return found


def test_keys_of_the_file_and_of_its_tables_are_settings() -> None:
    read = document("""
        workers = "auto"
        prefetch = "1000/workers"
        drain-timeout = "1m"
        connect-wait = 5
        max-rss = "1GiB"
        burst = true
        queues = ["orders", "a,b"]
        broker-url = "amqp://rabbit/"

        [publisher]
        channels = 3
        retry-factor = 1.5
        [pool]
        borrow-timeout = "250ms"
    """)
    assert read.values == {
        "workers": None,
        "prefetch": Shared(1000),
        "drain-timeout": 60.0,
        "connect-wait": 5.0,
        "max-rss": 2**30,
        "burst": True,
        "queues": ("orders", "a,b"),
        "broker-url": ("amqp://rabbit/",),
        "publisher.channels": 3,
        "publisher.retry-factor": 1.5,
        "pool.borrow-timeout": 0.25,
    }


def test_a_queue_has_a_table_of_its_own() -> None:
    read = document('[queues."orders.v2"]\nprefetch = 7\nhandler-timeout = "2m"\n[queues.other]\nconcurrency = 1')
    assert read.queues == {"orders.v2": {"prefetch": 7, "handler-timeout": 120.0}, "other": {"concurrency": 1}}
    assert read.place_of("queues", "orders.v2", "handler-timeout") == "mxworker.toml, line 3"
    assert read.values == {}


def test_relative_paths_are_those_beside_the_file() -> None:
    read = document('tls-ca = "ca.pem"\nbroker-url-file = "/run/secrets/url"\nname = "shop"')
    assert read.values == {"tls-ca": "/etc/shop/ca.pem", "broker-url-file": "/run/secrets/url", "name": "shop"}


def test_a_project_file_has_the_settings_in_its_table_and_nothing_else_counts() -> None:
    text = '[project]\nworkers = "many"\n[tool.mxworker]\nworkers = 3\n[tool.mxworker.pool]\nmax-channels = 5\n'
    read = document(text, ("tool", "mxworker"))
    assert read.values == {"workers": 3, "pool.max-channels": 5}
    assert read.place_of("pool", "max-channels") == "mxworker.toml, line 6"
    assert parse('[project]\nname = "mxworker"', "pyproject.toml", PurePath(), ("tool", "mxworker")) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("drain_timeout = 1", "line 1: there is no setting 'drain_timeout'; did you mean 'drain-timeout'?"),
        ("\nworker = 1", "line 2: there is no setting 'worker'; did you mean 'workers'?"),
        (
            "[pool]\nmax-chanels = 1",
            "line 2: there is no setting 'pool.max-chanels'; did you mean 'pool.max-channels'",
        ),
        ("overflow = 'wait'", "line 1: there is no setting 'overflow'; did you mean 'publisher.overflow'?"),
        ("[publisher]\ntls-ca = 'x'", "line 2: there is no setting 'publisher.tls-ca'; did you mean 'tls-ca'?"),
        ("xyzzy = 1", "line 1: there is no setting 'xyzzy'.  'mxworker config defaults' shows all settings."),
        ("[xyzzy]\na = 1", "line 1: there is no setting 'xyzzy'.  'mxworker config defaults' shows all settings."),
        ("publisher = 5", "line 1: there is no setting 'publisher'"),
        (
            '[queues."orders"]\nprefech = 1',
            "line 2: there is no setting 'prefech' of a queue; did you mean 'prefetch'?",
        ),
        (
            '[queues."orders"]\nworkers = 1',
            "line 2: there is no setting 'workers' of a queue; a queue has concurrency, prefetch, handler-",
        ),
        ("queues.orders = 5", 'line 1: a queue has a table of its own, [queues."orders"].'),
        ("workers = 0", "line 1: workers is 0, but must be 'auto' or a whole number from 1 to 512."),
        ("workers = true", "line 1: workers is True, but must be 'auto' or a whole number from 1 to 512."),
        (
            "quarantine-after = '8'",
            "line 1: quarantine-after is '8', but must be a whole number from 0 to 1000.",
        ),
        ("burst = 'yes'", "line 1: burst is 'yes', but must be true or false."),
        (
            "heartbeat-timeout = '1s'",
            "line 1: heartbeat-timeout is '1s', but must be a time of at least 2s and at most 8760h: workers beat once",
        ),
        ("drain-timeout = 'soon'", "line 1: drain-timeout: 'soon' is not a duration.  Write it like 250ms, 30s, 5m or"),
        ("drain-timeout = nan", "line 1: drain-timeout is nan, but must be a time of at least 0s"),
        ("max-rss = '0B'", "line 1: max-rss: '0B' is too small a size"),
        ("log-level = 'loud'", "line 1: log-level is 'loud', but must be 'debug', 'info', 'warning' or 'error'."),
        ("[queues.a]\nprefetch = 70000", "line 2: prefetch is 70000, but must be a whole number from 1 to 65535, or"),
        ("name = ''", "line 1: name is '', but must be a text that is not empty."),
        ("queues = [1]", "line 1: queues is [1], but must be a list of texts that are not empty."),
        ("workers = ", "is not valid TOML: Invalid value (at"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_the_way_out(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match="^" + re.escape("mxworker.toml") + ".*" + re.escape(told)):
        document(text)


def test_a_key_that_cannot_be_found_line_by_line_is_still_named() -> None:
    with pytest.raises(ConfigError, match=re.escape("mxworker.toml: there is no setting 'pool.x'")):
        document("pool = { x = 1 }")


@given(st.lists(st.sampled_from([*"[]{}=\"'.,#\n 1-_", "queues", "pool", "workers", "max-rss", "x", "true", "'5s'"])))
def test_any_text_is_a_document_or_a_named_mistake(words: list[str]) -> None:
    told = "mxworker.toml"
    try:
        document("".join(words))
    except ConfigError as error:
        told = str(error)
    assert told.startswith("mxworker.toml")
    assert all(line.isprintable() for line in told.split("\n"))


def test_no_control_character_of_a_file_gets_into_an_error() -> None:
    for text in (
        r'"\u001b[31m" = 1',
        r"[pool]" "\n" r'"a\u001b" = 1',
        r'name = "\u0000"',
        r"[queues.a]" "\n" r'"\u001b" = 1',
    ):
        with pytest.raises(ConfigError) as caught:
            document(text)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("text", ["workers = " + "9" * 5000, "queues = " + "[" * 20_000])
def test_a_hostile_text_is_a_named_mistake(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^mxworker\.toml is not valid TOML"):
        document(text)


def test_a_line_of_a_text_over_several_lines_is_no_key_of_its_own() -> None:
    read = document('name = """\nworkers = 1\n"""\nburst = true')
    assert read.values == {"name": "workers = 1\n", "burst": True}
