"""The status of the service on the board is always one that was written whole."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from mxworker.board.status_area import STATUS_AREA_BYTES, TEXT_BYTES, StatusArea, Written


def area() -> tuple[memoryview, StatusArea]:
    view = memoryview(bytearray(STATUS_AREA_BYTES))
    return view, StatusArea(view)


def test_area_that_was_never_written_has_no_status() -> None:
    assert area()[1].read() is None


def test_newest_status_is_read() -> None:
    view, writer = area()
    for number in range(1, 6):
        writer.write(b"x" * number, 100 + number)
        assert StatusArea(view).read() == Written(number, 100 + number, b"x" * number)


def test_status_that_is_being_written_is_not_read() -> None:
    view, writer = area()
    writer.write(b"first", 1)
    writer.write(b"second", 2)
    before = bytes(view)
    writer.write(b"third!", 3)
    after = bytes(view)
    changed = [at for at in range(len(after)) if after[at] != before[at]]
    for done in range(len(changed)):
        view[:] = before
        for at in changed[:done]:
            view[at] = after[at]
        assert StatusArea(view).read() == Written(2, 2, b"second")


def test_text_that_does_not_fit_is_left_out_and_the_instant_is_told() -> None:
    view, writer = area()
    writer.write(bytes(TEXT_BYTES), 1)
    assert StatusArea(view).read() == Written(1, 1, bytes(TEXT_BYTES))
    writer.write(bytes(TEXT_BYTES + 1), 2)
    assert StatusArea(view).read() == Written(2, 2, b"")


@given(st.binary(max_size=100))
def test_any_bytes_are_tolerated(garbage: bytes) -> None:
    view, writer = area()
    view[: len(garbage)] = garbage
    assert writer.read() is None
    view[:] = os.urandom(4096).ljust(STATUS_AREA_BYTES, b"\xff")
    assert writer.read() is None
