"""What an application gives as a reason, or raises, is made text: whatever it is, printable and bounded."""

from __future__ import annotations

from typing import Any

import pytest

from mxworker import Reject, Retry
from mxworker.system.foreign_errors import TEXT_CHARACTERS, error_in_words, errors_in, reason_of, text_of, type_name
from mxworker.system.printable import CUT
from tests.harness.silent import Mute, Silent


class OddText(str):
    def __str__(self) -> str:
        raise KeyError

    def encode(self, *_: Any) -> bytes:
        raise KeyError

    def __getitem__(self, _: Any) -> str:
        raise KeyError


class AnsweringOddly:
    def __str__(self) -> str:
        return OddText("no")


class Unnamed(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise KeyError


class OddlyNamedError(Exception, metaclass=Unnamed):
    pass


REASONS: list[tuple[object, str]] = [
    ("no", "no"),
    ("", ""),
    (None, ""),
    (42, "42"),
    (b"no\xff", "no\\xff"),
    (bytearray(b"no"), "no"),
    (memoryview(b"no"), "no"),
    (["a", 1], "['a', 1]"),
    (ValueError("no"), "ValueError: no"),
    (ValueError(), "ValueError"),
    (KeyError("no"), "KeyError: 'no'"),
    (
        ExceptionGroup("g", [ValueError("a"), ExceptionGroup("h", [KeyError(1)])]),
        "ExceptionGroup: ValueError: a; KeyError: 1",
    ),
    (ValueError, "<class 'ValueError'>"),
    ("a\nb\x1b[31m\u2028", "a\\x0ab\\x1b[31m\\x2028"),
    ("\ud800", "\\ud800"),
    ("x" * 5_000_000, "x" * TEXT_CHARACTERS + CUT),
    (b"x" * 5_000_000, "x" * TEXT_CHARACTERS + CUT),
    (10**5000, "(its text cannot be shown)"),
    (OddText("no"), "no"),
    (AnsweringOddly(), "no"),
    (Silent(RuntimeError()), "(its text cannot be shown)"),
    (Silent(SystemExit(3)), "(its text cannot be shown)"),
    (Silent(GeneratorExit()), "(its text cannot be shown)"),
    (Silent(RecursionError()), "(its text cannot be shown)"),
    (Mute(), "Mute: (its text cannot be shown)"),
    ([Mute()], "(its text cannot be shown)"),
    (OddlyNamedError("no"), "OddlyNamedError: no"),
]


@pytest.mark.parametrize(("reason", "text"), REASONS, ids=map(str, range(len(REASONS))))
def test_reason_is_the_text_of_whatever_was_given(reason: object, text: str) -> None:
    assert reason_of(reason) == text
    for settlement in (Reject(reason), Retry(reason=reason)):
        assert settlement.reason == str(settlement) == text
        assert type(settlement.reason) is str


def test_group_of_many_is_told_by_its_first_ones() -> None:
    text = text_of(ExceptionGroup("g", [ValueError(number) for number in range(100)]))
    assert text.startswith("ValueError: 0; ValueError: 1; ")
    assert text.endswith("; 80 more")


def test_group_may_be_nested_as_deep_as_it_likes() -> None:
    error: Exception = ValueError("no")
    for _ in range(5000):
        error = ExceptionGroup("g", [error])
    assert [str(each) for each in errors_in(error)] == ["no"]
    assert error_in_words(error) == "ExceptionGroup: ValueError: no"


def test_type_is_named_as_it_is_and_not_as_it_says() -> None:
    assert type_name(OddlyNamedError()) == "OddlyNamedError"
    assert type_name(type("a\nb", (), {})()) == "a\\x0ab"
