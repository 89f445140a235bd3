"""Broker URLs are read strictly, a password never shows, and the next broker to try is the best known one."""

from __future__ import annotations

import dataclasses
import random
import traceback

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from mxworker.backoff import RECONNECT, REFUSED
from mxworker.brokers import COOL_DOWN_S, DEFAULT_TLS, Brokers, BrokerUrl, Rotation, Tls
from mxworker.config.process import Consumption
from mxworker.errors import BrokerError, ConfigError, ConnectionLost, CredentialsRefused, TlsRefused

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
SECRET = "S3cr3t/x"  # as S3cr3t%2Fx in a URL


def error_text(*urls: str, tls: Tls = DEFAULT_TLS) -> str:
    """What an operator could see of the refusal, a traceback included."""
    with pytest.raises(ConfigError) as caught:
        Brokers.parse(urls, tls=tls)
    return "".join(traceback.format_exception(caught.value))


# URLs that are taken


def test_a_full_url_is_read() -> None:
    url = BrokerUrl.parse("amqp://me:S3cr3t%2Fx@rabbit.example:5673/shop%2Fprod?heartbeat=30")
    assert url == BrokerUrl("rabbit.example", 5673, "me", SECRET, "shop/prod", 30)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("amqp://me:S3cr3t@localhost/", ()),
        ("amqp://me:S3cr3t@shop.localhost/", ()),
        ("amqp://me:S3cr3t@127.0.0.2/", ()),
        ("amqp://me:S3cr3t@[::1]/", ()),
        ("amqps://me:S3cr3t@rabbit/", ()),
        ("amqp://me:S3cr3t@rabbit/", ("rabbit:5672",)),
        ("amqp://me:S3cr3t@10.0.0.1/", ("10.0.0.1:5672",)),
        ("amqp://me:S3cr3t@localhost.example/", ("localhost.example:5672",)),
        ("amqp://me:S3cr3t@[fe80::1]/", ("[fe80::1]:5672",)),
    ],
)
def test_plain_text_over_a_network_is_known(text: str, places: tuple[str, ...]) -> None:
    assert Brokers.parse([text]).exposed_places == places


@pytest.mark.parametrize("text", ["amqp://rabbit", "amqp://rabbit/", "amqp://rabbit:5672//", " AMQP://RABBIT:/\n"])
def test_what_is_left_out_has_the_usual_default(text: str) -> None:
    assert BrokerUrl.parse(text) == BrokerUrl("rabbit", 5672, "guest", "guest", "/", 10)


@pytest.mark.parametrize(
    ("text", "port"), [("amqps://rabbit", 5671), (" AMQPS://rabbit:/\n", 5671), ("amqps://rabbit:1/", 1)]
)
def test_amqps_is_tls_and_has_its_own_port(text: str, port: int) -> None:
    assert BrokerUrl.parse(text) == BrokerUrl("rabbit", port, is_tls=True)


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
    is_tls=st.booleans(),
)


@given(BROKER_URLS)
def test_a_dsn_is_read_back_as_it_was(url: BrokerUrl) -> None:
    assert BrokerUrl.parse(url.dsn) == url


@given(BROKER_URLS)
def test_the_amqp_library_reads_the_same_from_a_dsn(url: BrokerUrl) -> None:
    theirs = URL(url.dsn)
    assert (theirs.scheme, theirs.host, theirs.port) == ("amqps" if url.is_tls else "amqp", url.host, url.port)
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
        ("amqpss://rabbit/", "does not start with amqp:// or amqps://"),
        ("amqps://rabbit/?no_verify_ssl=false", "only 'heartbeat' is"),
        ("amqps://rabbit/?cafile=/x", "only 'heartbeat' is"),
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


# The password


def test_str_and_repr_show_everything_but_the_password() -> None:
    url = BrokerUrl.parse("amqp://me:S3cr3t%2Fx@rabbit:5673/shop%2Fprod")
    assert str(url) == "amqp://me:***@rabbit:5673/shop%2Fprod"
    several = Brokers((BrokerUrl("rabbit"), url))
    for shown in (
        str(url),
        repr(url),
        f"{url}",
        f"{url!r}",
        repr([url]),
        str(several),
        repr(several),
        repr(Consumption("app", several)),
    ):
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
@example(noise=":%3")
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


# Several brokers


def test_several_are_kept_in_order_and_one_written_twice_counts_once() -> None:
    brokers = Brokers.parse(
        ["amqp://me:S3cr3t%2Fx@b/", "amqp://a:1/shop", "amqp://me:S3cr3t%2Fx@b:5672"], shuffled=True
    )
    assert [url.host for url in brokers.urls] == ["b", "a"]
    assert str(brokers) == "amqp://me:***@b:5672/, amqp://guest:***@a:1/shop (shuffled)"


def test_none_at_all_is_refused() -> None:
    assert "no broker URL is given" in error_text()


def test_the_error_says_which_of_several_is_wrong() -> None:
    shown = error_text("amqp://a/", "amqp://me:S3cr3t%2Fx@b:0/")
    assert "URL 2 of 2: the broker URL has the port 0" in shown
    assert "S3cr3t" not in shown


def test_plain_text_is_no_fallback_for_tls() -> None:
    assert "mix amqp:// and amqps://" in error_text("amqps://a/", "amqp://b/")


@pytest.mark.parametrize("tls", [Tls(ca_file="x"), Tls(certificate_file="x"), Tls(certificate_file="x", key_file="x")])
def test_tls_files_without_tls_are_refused(tls: Tls) -> None:
    assert "mean nothing for amqp://" in error_text("amqp://a/", tls=tls)


def test_a_key_without_a_certificate_is_refused() -> None:
    assert "--tls-key without --tls-cert" in error_text("amqps://a/", tls=Tls(key_file="x"))


# Whose turn it is

A, B, C = (BrokerUrl(host) for host in "abc")
DOWN = ConnectionLost("down")
NO = CredentialsRefused("403")


class Most(random.Random):
    """The longest wait there can be."""

    def uniform(self, a: float, b: float) -> float:
        return b


def rotation(*urls: BrokerUrl) -> Rotation:
    return Rotation(Brokers(urls), Most())


def test_the_first_is_preferred_while_it_is_well() -> None:
    brokers = rotation(A, B)
    brokers.note_connected(A)
    assert [brokers.turn(now) for now in (5.0, 500.0)] == [(A, 5.0), (A, 500.0)]


def test_a_failed_broker_cools_down_and_comes_back() -> None:
    brokers = rotation(A, B)
    brokers.note_failed(A, DOWN, 100.0)
    assert brokers.turn(100.0 + COOL_DOWN_S - 0.1)[0] is B
    assert brokers.turn(100.0 + COOL_DOWN_S)[0] is A


def test_a_broker_that_lets_us_in_is_well_again() -> None:
    brokers = rotation(A, B)
    brokers.note_failed(A, DOWN, 100.0)
    brokers.note_connected(A)
    assert brokers.turn(101.0) == (A, 101.0)


def test_when_all_cool_the_one_that_has_cooled_longest_is_taken_at_once() -> None:
    brokers = rotation(A, B, C)
    taken = []
    for now in range(100, 106):
        url, open_at = brokers.turn(now)
        assert open_at <= now
        taken.append(url)
        brokers.note_failed(url, DOWN, now)
    assert taken == [A, B, C, A, B, C]


def test_a_broker_that_refused_us_is_left_alone_and_the_others_are_tried_at_once() -> None:
    brokers = rotation(A, B)
    brokers.note_failed(A, NO, 100.0)
    assert brokers.turn(100.1) == (B, 100.1)
    brokers.note_failed(B, DOWN, 100.1)
    assert brokers.turn(107.9)[0] is B, "cooling, but not barred"
    assert brokers.turn(108.0)[0] is A


def test_when_all_refused_us_the_first_to_be_asked_again_is_waited_for() -> None:
    brokers = rotation(A, B)
    brokers.note_failed(A, NO, 100.0)
    brokers.note_failed(B, NO, 101.0)
    assert brokers.turn(102.0) == (A, 108.0)
    assert brokers.rest_s(0, 102.0) == 6.0


def test_one_broker_rests_by_the_backoff() -> None:
    brokers = rotation(A)
    brokers.note_failed(A, DOWN, 100.0)
    assert [brokers.rest_s(attempt, 100.0) for attempt in range(5)] == [RECONNECT.ceiling_s(n) for n in range(5)]
    brokers.note_failed(A, NO, 100.0)
    assert brokers.rest_s(0, 100.0) == REFUSED.cap_s


def test_the_backoff_grows_from_round_to_round() -> None:
    brokers = rotation(A, B)
    rests = []
    for attempt in range(8):
        brokers.note_failed(brokers.turn(100.0 + attempt)[0], DOWN, 100.0 + attempt)
        rests.append(brokers.rest_s(attempt, 100.0 + attempt))
    assert rests == [0.5, 0.5, 0.5, 0.5, 0.5, 1.5, 0.5, 3.5]


def test_shuffled_brokers_are_shuffled_once_and_differ_between_processes() -> None:
    urls = tuple(BrokerUrl(f"host{number}") for number in range(5))
    firsts = set()
    for seed in range(40):
        brokers = Rotation(Brokers(urls, shuffled=True), random.Random(seed))
        assert len({brokers.turn(float(now)) for now in range(3)}) == 3
        assert len({brokers.turn(float(now))[0] for now in range(3)}) == 1
        firsts.add(brokers.turn(1.0)[0])
    assert firsts == set(urls)


def test_the_verdict_of_one_broker_is_its_own_error() -> None:
    brokers = rotation(A)
    assert brokers.verdict is None
    brokers.note_failed(A, NO, 100.0)
    assert brokers.verdict is NO
    brokers.note_connected(A)
    assert brokers.verdict is None


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ((NO,), ConnectionLost),
        ((NO, DOWN), ConnectionLost),
        ((DOWN, NO), ConnectionLost),
        ((NO, NO), CredentialsRefused),
        ((NO, TlsRefused("expired")), TlsRefused),
    ],
)
def test_the_verdict_of_several_is_permanent_when_all_refused_and_names_each(
    errors: tuple[BrokerError, ...], kind: type[BrokerError]
) -> None:
    brokers = rotation(A, B)
    for url, error in zip((A, B), errors, strict=False):
        brokers.note_failed(url, error, 100.0)
    verdict = brokers.verdict
    assert type(verdict) is kind
    assert str(verdict) == "\n  ".join(f"{url.place}: {error}" for url, error in zip((A, B), errors, strict=False))


EVENTS = st.lists(
    st.tuples(st.floats(0, 20), st.sampled_from(["connected", "down", "refused"]), st.integers(0, 3)), max_size=40
)


@given(EVENTS, st.integers(1, 4))
def test_a_barred_broker_is_never_tried_early_and_somebody_is_always_next(
    events: list[tuple[float, str, int]], count: int
) -> None:
    urls = [BrokerUrl(f"host{number}") for number in range(count)]
    brokers = rotation(*urls)
    now, barred_until = 100.0, dict.fromkeys(urls, 0.0)
    for passed_s, event, number in events:
        now += passed_s
        url = urls[number % count]
        if event == "connected":
            brokers.note_connected(url)
        else:
            brokers.note_failed(url, NO if event == "refused" else DOWN, now)
        barred_until[url] = now + REFUSED.cap_s if event == "refused" else 0.0
        turn, open_at = brokers.turn(now)
        assert max(open_at, now) == max(barred_until[turn], now)
        assert max(open_at, now) == max(min(barred_until.values()), now)
