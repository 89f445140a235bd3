"""What others wrote is shown on one line, as valid UTF-8, and never longer than was said."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mxworker.printable import head, printable, tail, well_formed

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
