"""What others wrote is shown on one line, as valid UTF-8, and never longer than was said."""

from __future__ import annotations

import sys
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from mxworker.system.printable import FOREIGN_CHARACTERS, by_line, foreign, head, printable, tail, well_formed
from tests.harness.hostile_text import HOSTILE, hidden_in

any_text = st.text(st.characters(exclude_categories=()), max_size=300)  # lone surrogates too


@given(text=any_text)
def test_printable_text_is_one_line_of_utf_8_and_stays_as_it_is(text: str) -> None:
    shown = printable(text)
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in shown)
    assert printable(shown) == shown


def test_control_characters_and_surrogates_are_written_out() -> None:
    assert printable("a\nb\x1b[31m\x85\u2028\udcff\ud800 Grüße") == "a\\x0ab\\x1b[31m\\x85\\x2028\\udcff\\ud800 Grüße"


def test_nothing_that_is_hidden_or_acted_on_stays_of_all_that_unicode_has() -> None:
    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    assert hidden_in(printable(everything)) == set()
    kept = ("Lu", "Ll", "Nd", "Sm", "Sc", "Pd", "Ps", "Pe", "Zs")
    plain = "".join(one for one in everything if unicodedata.category(one) in kept)
    assert printable(plain) == plain


def test_direction_and_width_are_written_out() -> None:
    text = "\u202egpj.exe\u2066\u2069\u200b\u200d\ufeff\u3164\u2029\U000e0041"
    assert printable(text) == "\\x202egpj.exe\\x2066\\x2069\\x200b\\x200d\\xfeff\\x3164\\x2029\\xe0041"


@given(text=any_text | st.just(HOSTILE) | st.integers() | st.lists(any_text), most=st.integers(0, 400))
def test_foreign_text_is_one_printable_line_that_is_bounded(text: object, most: int) -> None:
    shown = foreign(text, most)
    assert not hidden_in(shown)
    assert "\n" not in shown
    assert len(shown) <= most + len("[cut]")
    assert foreign("x" * FOREIGN_CHARACTERS) == "x" * FOREIGN_CHARACTERS


def test_text_of_ours_keeps_its_lines() -> None:
    assert by_line("Error: no\n  \x1bTry:  this\r\n") == "Error: no\n  \\x1bTry:  this\\x0d\n"


@given(text=any_text, size_bytes=st.integers(20, 100))
def test_head_and_tail_fit_and_are_cut_at_characters(text: str, size_bytes: int) -> None:
    whole = well_formed(text)
    first, last = head(whole, size_bytes), tail(whole, size_bytes)
    assert len(first.encode()) <= size_bytes
    assert len(last.encode()) <= size_bytes
    if len(whole.encode()) <= size_bytes:
        assert first == last == whole
    else:
        assert whole.startswith(first.removesuffix("[cut]"))
        assert whole.endswith(last.removeprefix("[cut]"))
