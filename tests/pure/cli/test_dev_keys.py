"""Which keys of `mxworker dev` count, and when a refused reload is said again."""

from __future__ import annotations

from typing import Any

import pytest

from mxworker.cli.dev.keys import HINT, Key, keys_in
from mxworker.cli.dev.refused_reload import SAY_AGAIN_S, RefusedReload, in_one_line
from mxworker.cli.dev.wanted import Wanted

NOTE = "Error: 'app' was found but failed to import:\n  app.py:3  handlers = asyncio.no_such    AttributeError: ..."
ONE_LINE = "The old code goes on: 'app' was found but failed to import:  app.py:3  handlers = asyncio.no_such    Attr"


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (b"", []),
        (b"p", [Key.PUBLISH]),
        (b"P", [Key.PUBLISH]),
        (b"rd", [Key.RELOAD, Key.DUMP]),
        (b"o\rx", [Key.PAGE, Key.BLANK]),
        (b"?", [Key.HELP]),
        (b"\n", [Key.BLANK]),
        (b"\x1bOp", []),  # a key of the number pad
        (b"\x1b[A", []),
        ("ä".encode(), []),
        (b"\xff\x00", []),
        (b"quit", []),  # pasted
    ],
)
def test_what_is_typed_by_accident_is_no_key(typed: bytes, keys: list[Key]) -> None:
    assert keys_in(typed) == keys


def test_hint_names_the_keys() -> None:
    assert all(f" {key.value} " in HINT for key in Key if key not in (Key.HELP, Key.BLANK))


def test_what_is_wanted_survives_the_pipe() -> None:
    wanted = Wanted("app", None, True, ("a", "b"), ("amqp://me:S3cr3t@x/",), "ca.pem", None, None, 7)
    assert Wanted.taken(wanted.line().decode()) == wanted
    assert wanted.line().count(b"\n") == 1


def status(state: str, handled: int = 0, note: str = NOTE) -> dict[str, Any]:
    counts = dict.fromkeys(("acked", "requeued", "retried", "rejected", "undecodable", "timed_out"), 0)
    workers = [{**counts, "acked": handled}, {**counts, "retried": handled}]
    return {"reload": {"state": state, "generation": 2, "why": "exit code 3", "note": note}, "workers": workers}


def test_refused_reload_is_said_again_only_when_messages_were_handled_since() -> None:
    reload = RefusedReload()
    reload.reload_began(0.0)
    assert reload.look_at == 1.0
    assert reload.take(status("rolling"), 1.0) is None
    assert reload.look_at == 2.0
    assert reload.take(status("refused"), 2.0) is None  # the service has said it
    assert reload.take(status("refused"), 100.0) is None
    assert reload.take(status("refused", 1), 200.0) == in_one_line(status("refused")["reload"])
    assert reload.take(status("refused", 2), 200.0 + SAY_AGAIN_S / 2) is None
    assert reload.take(status("refused", 2), 200.0 + SAY_AGAIN_S) is not None
    assert reload.look_at is not None


@pytest.mark.parametrize("state", ["done", "none"])
def test_reload_that_is_done_is_looked_at_no_more(state: str) -> None:
    reload = RefusedReload()
    reload.reload_began(0.0)
    reload.take(status("refused"), 1.0)
    assert reload.take(status(state, 1), 50.0) is None
    assert reload.look_at is None


def test_service_that_does_not_answer_is_asked_again() -> None:
    reload = RefusedReload()
    reload.reload_began(0.0)
    assert reload.take({}, 5.0) is None
    assert reload.look_at == 6.0
    reload.service_ended()
    assert reload.look_at is None


@pytest.mark.parametrize(
    ("note", "text"), [(NOTE, ONE_LINE), ("", "The old code goes on: exit code 3"), ("x" * 999, "x" * 99)]
)
def test_error_is_said_in_one_line(note: str, text: str) -> None:
    shown = in_one_line(status("refused", note=note)["reload"])
    assert text in shown
    assert "\n" not in shown
    assert len(shown) < 500
