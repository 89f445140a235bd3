"""Requests over the control socket, and where it is."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.control.protocol import (
    ADDRESS_BYTES,
    ANSWER_BYTES,
    Dump,
    Identity,
    LogLevel,
    Metrics,
    Pause,
    Profile,
    ProfileEnd,
    ProfilePart,
    ProfileState,
    Reload,
    Request,
    RequestRefused,
    Resume,
    Scale,
    Status,
    Stop,
    answer_line,
    directories,
    file_name,
    line_of,
    lock_line,
    may_be_of,
    parse,
    parse_lock,
)

REQUESTS: list[tuple[bytes, Request]] = [
    (b'{"do": "status"}', Status()),
    (b'{"do": "metrics"}', Metrics()),
    (b'{"do": "reload"}', Reload()),
    (b'{"do": "pause"}', Pause()),
    (b'{"do": "pause", "queue": "orders"}', Pause("orders")),
    (b'{"queue": null, "do": "resume"}', Resume()),
    (b'{"do": "resume", "queue": "orders"}', Resume("orders")),
    (b'{"do": "scale", "workers": 512}', Scale(512)),
    (b'{"do": "stop"}', Stop()),
    (b'{"do": "dump"}', Dump()),
    (b'{"do": "log-level", "level": "debug"}', LogLevel("debug")),
    (b'{"do": "profile", "kind": "cpu", "seconds": 2.5, "worker": 1}', Profile("cpu", 2.5, 1)),
    (b'{"do": "profile", "kind": "memory", "seconds": 10}', Profile("memory", 10)),
    (b'{"do": "profile-state", "number": 3}', ProfileState(3)),
    (b'{"do": "profile-part", "number": 3, "at": 524288}', ProfilePart(3, 524288)),
    (b'{"do": "profile-end", "number": 3}', ProfileEnd(3)),
]

REFUSED = [
    (b"", "a request is a JSON object on one line"),
    (b"status", "a request is a JSON object on one line"),
    (b"\xff\xfe", "a request is a JSON object on one line"),
    (b"[" * 4000, "a request is a JSON object on one line"),
    (b'["status"]', 'what to "do"'),
    (b"{}", 'what to "do"'),
    (b'{"do": 1}', 'what to "do"'),
    (b'{"do": "shutdown"}', "'shutdown' is not a known request. Known are: status, metrics, reload,"),
    (b'{"do": "status", "verbose": true}', "status has no field 'verbose'. It has none."),
    (b'{"do": "pause", "queues": []}', "pause has no field 'queues'. It has: queue."),
    (b'{"do": "profile", "kind": "wall", "seconds": 1}', "profile: 'kind' is 'wall', but must be one of cpu, memory."),
    (b'{"do": "profile", "kind": "cpu", "seconds": 1e9}', "profile: 'seconds' is 1000000000.0, but must be a number"),
    (b'{"do": "profile", "kind": "cpu", "seconds": true}', "profile: 'seconds' is True, but must be a number"),
    (b'{"do": "profile-part", "number": 3, "at": -1}', "profile-part: 'at' is -1, but must be"),
    (b'{"do": "pause", "queue": 7}', "pause: 'queue' is 7, but must be the name of a queue."),
    (b'{"do": "scale"}', "scale needs the field 'workers'."),
    (b'{"do": "scale", "workers": 0}', "scale: 'workers' is 0, but must be a number from 1 to 512."),
    (b'{"do": "scale", "workers": 513}', "must be a number from 1 to 512"),
    (b'{"do": "scale", "workers": true}', "must be a number from 1 to 512"),
    (b'{"do": "scale", "workers": "4"}', "must be a number from 1 to 512"),
    (b'{"do": "log-level", "level": "loud"}', "must be one of debug, info, warning, error"),
    (b'{"do": "log-level", "level": []}', "must be one of debug, info, warning, error"),
]


@pytest.mark.parametrize(("line", "request_"), REQUESTS)
def test_line_means_its_request(line: bytes, request_: Request) -> None:
    assert parse(line) == request_
    assert parse(line_of(request_)) == request_


@pytest.mark.parametrize(("line", "why"), REFUSED)
def test_what_is_no_request_is_refused_and_told_why(line: bytes, why: str) -> None:
    with pytest.raises(RequestRefused) as refused:
        parse(line)
    assert why in str(refused.value)
    assert len(str(refused.value)) < 1000


JSON = st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.dictionaries(st.text(), inner))


@given(st.binary(max_size=200) | JSON.map(lambda value: repr(value).replace("'", '"').encode()))
def test_any_line_is_a_request_or_refused(line: bytes) -> None:
    try:
        parsed = parse(line)
    except RequestRefused as error:
        text = str(error)
        text.encode()
    else:
        parse(line_of(parsed))


def test_answer_beyond_its_bound_becomes_a_refusal() -> None:
    assert orjson.loads(answer_line({"ok": True}))["ok"]
    line = answer_line({"ok": True, "text": "x" * ANSWER_BYTES})
    assert len(line) < 100
    assert not orjson.loads(line)["ok"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("app:handlers", "app-handlers"),
        ("path/app.py:handlers", "path-app.py-handlers"),
        ("../../etc/passwd", "-..-etc-passwd"),
        ("größe\n", "gr--e-"),
        (".hidden", "hidden"),
        ("x" * 61, "x" * 51),
    ],
)
def test_name_becomes_one_file_of_the_directory(name: str, file: str) -> None:
    assert re.fullmatch(re.escape(file) + r"\.[0-9a-f]{8}\.sock", file_name(name))


@pytest.mark.parametrize("name", ["shop", "shop-eu", "shop.eu_2", "x" * 60])
def test_name_that_can_be_a_file_name_is_one(name: str) -> None:
    assert file_name(name) == f"{name}.sock"


@pytest.mark.parametrize(
    "names",
    [
        ["shop-eu", "shop/eu", "shop eu", "shop:eu", "shöp-eu", "sh\udcf6p-eu"],
        [".shop", "shop", "..shop"],
        ["x" * 60 + "a", "x" * 60 + "b", "x" * 60],
    ],
)
@pytest.mark.parametrize("home", ["", "/srv/shop"])
def test_names_that_look_alike_have_a_file_each(names: list[str], home: str) -> None:
    assert len({file_name(name, home) for name in names}) == len(names)


@given(st.text(min_size=1))
def test_any_name_fits_a_file_and_an_address(name: str) -> None:
    file = file_name(name)
    assert "/" not in file
    assert file not in (".", "..")
    assert len(str(Path("/run/user/1000000000/mxworker", file)).encode()) <= ADDRESS_BYTES


@pytest.mark.parametrize(
    ("app", "home", "name"),
    [
        ("app:handlers", "/srv/shop", "shop/app:handlers"),
        ("shop.orders", "/srv/shop", "shop/shop.orders"),
        ("orders/app.py:handlers", "/srv/shop/orders", "orders/app.py:handlers"),
        ("app:handlers", "/", "app:handlers"),
    ],
)
def test_service_without_a_name_is_called_by_its_app_and_the_name_of_its_directory(
    app: str, home: str, name: str
) -> None:
    assert Identity.of_app(app, Path(home), Path("/srv")).name == name


def test_directories_of_one_name_have_files_of_their_own() -> None:
    first, second = (Identity.of_app("app:handlers", Path(home), Path("/")) for home in ("/a/shop", "/b/shop"))
    assert first.name == second.name
    assert first.file_name != second.file_name
    for file in (first.file_name, second.file_name):
        assert may_be_of(file, first.name)
        assert not may_be_of(file, "shop")
        assert not may_be_of(file, "app:handlers")


@given(st.text(min_size=1), st.text(min_size=1))
def test_file_of_any_name_and_directory_is_found_by_the_name(name: str, home: str) -> None:
    file = file_name(name, home)
    assert may_be_of(file, name)
    assert len(file) <= len("x" * 60 + ".sock")


@pytest.mark.parametrize("line", [b"", b"4711", b"{}", b"[]", b'{"pid": 1, "name": "shop"}', b"\xff"])
def test_lock_that_does_not_say_whose_it_is_is_of_nobody(line: bytes) -> None:
    assert parse_lock(line) is None


def test_lock_says_whose_it_is() -> None:
    identity = Identity("shop/app:handlers", "/srv/shop", "/srv")
    assert parse_lock(lock_line(identity, 4711)) == (identity, 4711)
    assert [identity.is_of(directory) for directory in ("/srv/shop", "/srv", "/")] == [True, True, False]
    assert not Identity("shop").is_of("")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ["/tmp/mxworker-7"]),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, ["/run/user/7/mxworker", "/tmp/mxworker-7"]),
        (
            {"RUNTIME_DIRECTORY": "/run/shop:/run/cache", "XDG_RUNTIME_DIR": "/run/user/7"},
            ["/run/shop", "/run/user/7/mxworker", "/tmp/mxworker-7"],
        ),
        ({"RUNTIME_DIRECTORY": "", "XDG_RUNTIME_DIR": "relative"}, ["/tmp/mxworker-7"]),
    ],
)
def test_directory_is_the_first_that_the_environment_names(environment: dict[str, str], expected: list[str]) -> None:
    assert [str(path) for path in directories(environment, 7)] == expected
