"""Settings are read strictly, and a password never shows."""

from __future__ import annotations

import dataclasses
import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mxworker.config import BrokerUrl, Consumption, Supervision, format_duration, parse_duration_s
from mxworker.errors import ConfigError

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
SECRET = "S3cr3t/x"  # as S3cr3t%2Fx in a URL


def error_text(url: str) -> str:
    """What an operator could see of the refusal, a traceback included."""
    with pytest.raises(ConfigError) as caught:
        BrokerUrl.parse(url)
    return "".join(traceback.format_exception(caught.value))


# Durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30.0),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("1.5h", 5400.0),
        ("30", 30.0),
        ("0", 0.0),
        (" 30 s ", 30.0),
    ],
)
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "+1s", "1d", "1 m 2 s", "1e3", "inf", "nan", ".5s", "5.", "1,5s", "٣s", "1_0", "9" * 400]
)
def test_what_is_no_duration_is_refused_with_the_way_out(text: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"'{text}' is not a duration.  Write it like 250ms, 30s, 5m or 1h.")
    ):
        parse_duration_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.25, "250ms"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (30.0, "30s"),
        (60.0, "1m"),
        (90.0, "90s"),
        (3600.0, "60m"),
        (1234567.0, "1234567s"),
    ],
)
def test_a_duration_is_written_as_an_operator_would(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0, 10**9))
def test_a_written_duration_is_read_back(seconds: float) -> None:
    assert parse_duration_s(format_duration(seconds)) == pytest.approx(seconds, abs=0.001)


# URLs that are taken


def test_a_full_url_is_read() -> None:
    url = BrokerUrl.parse("amqp://me:S3cr3t%2Fx@rabbit.example:5673/shop%2Fprod?heartbeat=30")
    assert url == BrokerUrl("rabbit.example", 5673, "me", SECRET, "shop/prod", 30)


@pytest.mark.parametrize("text", ["amqp://rabbit", "amqp://rabbit/", "amqp://rabbit:5672//", " AMQP://RABBIT:/\n"])
def test_what_is_left_out_has_the_usual_default(text: str) -> None:
    assert BrokerUrl.parse(text) == BrokerUrl("rabbit", 5672, "guest", "guest", "/", 10)


@pytest.mark.parametrize(
    ("path", "vhost"), [("/shop", "shop"), ("/%2F", "/"), ("/%2fshop", "/shop"), ("/a%20b", "a b"), ("/%C3%A4", "ä")]
)
def test_a_virtual_host_is_decoded(path: str, vhost: str) -> None:
    assert BrokerUrl.parse(f"amqp://rabbit{path}").vhost == vhost


def test_a_user_without_a_password_and_an_empty_password_are_told_apart() -> None:
    assert BrokerUrl.parse("amqp://me@rabbit").password == "guest"
    assert BrokerUrl.parse("amqp://me:@rabbit").password == ""


def test_an_ipv6_address_is_read_and_written_in_brackets() -> None:
    url = BrokerUrl.parse("amqp://[::1]:5673/")
    assert (url.host, url.port) == ("::1", 5673)
    assert str(url) == "amqp://guest:***@[::1]:5673/"
    assert URL(url.dsn).host == "::1"


@pytest.mark.parametrize("heartbeat_s", [1, 10, 600])
def test_the_heartbeat_is_a_parameter(heartbeat_s: int) -> None:
    assert BrokerUrl.parse(f"amqp://rabbit/?heartbeat={heartbeat_s}").heartbeat_s == heartbeat_s


BROKER_URLS = st.builds(
    BrokerUrl,
    host=st.sampled_from(["rabbit", "127.0.0.1", "::1"]),
    port=st.integers(1, 65535),
    user=TEXT.filter(bool),
    password=TEXT,
    vhost=TEXT.filter(bool),
    heartbeat_s=st.integers(1, 600),
)


@given(BROKER_URLS)
def test_a_dsn_is_read_back_as_it_was(url: BrokerUrl) -> None:
    assert BrokerUrl.parse(url.dsn) == url


@given(BROKER_URLS)
def test_the_amqp_library_reads_the_same_from_a_dsn(url: BrokerUrl) -> None:
    theirs = URL(url.dsn)
    assert (theirs.host, theirs.port) == (url.host, url.port)
    assert (theirs.user, theirs.password or "") == (url.user, url.password)
    assert theirs.query == {"heartbeat": str(url.heartbeat_s)}


@pytest.mark.parametrize("vhost", ["shop", "/", "shop/prod", "a b", "ä", "a%b", "?x=1#y"])
def test_the_amqp_library_reads_the_same_virtual_host_from_a_dsn(vhost: str) -> None:
    path = URL(BrokerUrl("rabbit", vhost=vhost).dsn).path
    assert path[1:].replace("%2F", "/") == vhost  # as aiormq.Connection does


# URLs that are refused


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "does not start with amqp://"),
        ("rabbit:5672", "does not start with amqp://"),
        ("http://rabbit/", "does not start with amqp://"),
        ("amqp:/rabbit/", "does not start with amqp://"),
        ("amqps://rabbit/", "amqps:// is not supported yet"),
        ("AMQPS://rabbit/", "amqps:// is not supported yet"),
        ("amqp://", "names no host"),
        ("amqp:///shop", "names no host"),
        ("amqp://me:x@/", "names no host"),
        ("amqp://me:x@:5672/", "names no host"),
        ("amqp://rabbit:x/", "cannot be read"),
        ("amqp://rabbit:65536/", "cannot be read"),
        ("amqp://rabbit:-1/", "cannot be read"),
        ("amqp://rabbit:" + "9" * 5000, "cannot be read"),
        ("amqp://[::1/", "cannot be read"),
        ("amqp://rabbit:0/", "port 0"),
        ("amqp://me:%ff@rabbit/", "not UTF-8"),
        ("amqp://rabbit/%ff", "not UTF-8"),
        ("amqp://rabbit/#shop", "unescaped"),
        ("amqp://rabbit/?heartbeat=0", "from 1 to 600"),
        ("amqp://rabbit/?heartbeat=601", "from 1 to 600"),
        ("amqp://rabbit/?heartbeat=", "from 1 to 600"),
        ("amqp://rabbit/?heartbeat=1.5", "from 1 to 600"),
        ("amqp://rabbit/?heartbeat=٣", "from 1 to 600"),
        ("amqp://rabbit/?heartbeat=" + "1" * 5000, "from 1 to 600"),
        ("amqp://rabbit/?no_verify_ssl=1", "only 'heartbeat' is"),
        ("amqp://rabbit/?heartbeat=5&cafile=", "only 'heartbeat' is"),
    ],
)
def test_a_url_that_cannot_work_is_refused_with_what_is_wrong(text: str, complaint: str) -> None:
    assert complaint in error_text(text)


def test_amqps_is_refused_and_never_becomes_plain_text() -> None:
    assert "never falls back to plain text" in error_text("amqps://me:S3cr3t%2Fx@rabbit/")


# The password


def test_str_and_repr_show_everything_but_the_password() -> None:
    url = BrokerUrl.parse("amqp://me:S3cr3t%2Fx@rabbit:5673/shop%2Fprod")
    assert str(url) == "amqp://me:***@rabbit:5673/shop%2Fprod"
    for shown in (str(url), repr(url), f"{url}", f"{url!r}", repr([url]), repr(Consumption("app", url))):
        assert "S3cr3t" not in shown


@given(password=TEXT, user=TEXT.filter(bool), vhost=TEXT.filter(bool))
def test_str_and_repr_do_not_depend_on_the_password(password: str, user: str, vhost: str) -> None:
    url = BrokerUrl("rabbit", user=user, password=password, vhost=vhost)
    other = dataclasses.replace(url, password="another")
    assert (str(url), repr(url)) == (str(other), repr(other))


MALFORMED = [
    "S3cr3t://me:{0}@rabbit/",
    "me:{0}@rabbit:5672/",
    "me:{0}@rabbit://",
    "{0}://rabbit/",
    "http://me:{0}@rabbit/",
    "amqps://me:{0}@rabbit/",
    "amqp://me:{0}@/",
    "amqp://me:{0}@rabbit:x/",
    "amqp://me:{0}@rabbit:0/",
    "amqp://me:{0}@rabbit:99999/",
    "amqp://me:{0}@[::1/",
    "amqp://me:{0}@[:{0}]/",
    "amqp://me:{0}@rab℀bit/",
    "amqp://me:{0}%ff@rabbit/",
    "amqp://me:{0}@rabbit/%ff",
    "amqp://me:{0}@rabbit/?x=1",
    "amqp://me:{0}@rabbit/?heartbeat=soon",
    "amqp://me:{0}@rabbit/#f",
    "amqp://rabbit:{0}",
    "amqp://rabbit:{0}/",
    "amqp://me:1/{0}@rabbit/",
    "amqp://me:1?{0}@rabbit/",
    "amqp://me:1#{0}@rabbit/",
    "amqp://me:/{0}@rabbit/",
    "amqp://[me:{0}@rabbit/",
    "amqp://me:[{0}]@rabbit/",
    "amqp://me:'{0}'@[\"'{0}]/",
]


@pytest.mark.parametrize("malformed", MALFORMED)
@given(noise=st.text("aB3/:@?#[]%'\" &=\\é℀", max_size=6))
def test_no_refusal_shows_a_piece_of_the_password(malformed: str, noise: str) -> None:
    """The canary stands for the password; whatever is around it, it appears nowhere."""
    for password in (f"CANARY{noise}", f"{noise}CANARY", f"{noise}CANARY{noise}"):
        try:
            url = BrokerUrl.parse(malformed.format(password))
        except ConfigError as error:
            shown = "".join(traceback.format_exception(error))
        else:
            shown = str(url) if "@" in malformed else ""  # without a login all that is left is host and vhost
        assert "CANARY" not in shown


# The rest


def test_settings_are_frozen() -> None:
    url = BrokerUrl("rabbit")
    for settings in (url, Supervision("app", 4), Consumption("app", url)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(settings, dataclasses.fields(settings)[0].name, "other")
