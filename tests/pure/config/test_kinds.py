"""Each kind of setting reads what it writes, and allows its range and nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxworker.config.kinds import (
    Choice,
    Duration,
    Factor,
    Kind,
    Shared,
    Size,
    Switch,
    Text,
    Texts,
    Whole,
    WholeOrAuto,
    WholeOrShared,
)
from mxworker.errors import ConfigError

_SEVERAL = st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=1).map(tuple)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Whole(0, 9999), st.integers(0, 9999)),
        (WholeOrAuto(1, 512), st.one_of(st.none(), st.integers(1, 512))),
        (WholeOrShared(1, 65535), st.integers(1, 65535) | st.integers(1, 65535).map(Shared)),
        (Factor(0, 1000), st.integers(0, 100_000).map(lambda hundredths: hundredths / 100)),
        (Duration(may_be_zero=True), st.integers(0, 31_536_000_000).map(lambda ms: ms / 1000)),
        (Size(), st.integers(1, 2**40)),
        (Choice(("wait", "drop"), "HOW"), st.sampled_from(["wait", "drop"])),
        (Switch(), st.booleans()),
        (Texts("NAME"), _SEVERAL),
        (Texts("NAMES", ","), _SEVERAL),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_written_is_read_and_allowed(kind: Kind, values: st.SearchStrategy[Any]) -> None:
    @given(values)
    def check(value: Any) -> None:
        read = kind.parse(kind.write(value))
        assert read == (pytest.approx(value) if isinstance(value, float) else value)
        assert kind.allows(value)

    check()


@pytest.mark.parametrize(
    ("kind", "refused"),
    [
        (Whole(1, 5), (0, 6, True, 2.0, "2", None)),
        (WholeOrAuto(1, 5), (0, 6, True, "auto")),
        (WholeOrShared(1, 5), (0, Shared(0), Shared(6), "4/workers", None)),
        (Factor(1, 5), (0.9, 5.1, float("nan"), True, "2", None)),
        (Duration(2, 5), (1.9, 5.1, float("nan"), float("inf"), True, "2s", None)),
        (Duration(), (0, -1, float("inf"))),
        (Size(2, 5), (1, 6, 2.0, "2B", None)),
        (Choice(("wait", "drop"), "HOW"), ("Wait", "", None, 1)),
        (Switch(), (0, 1, "true", None)),
        (Text(), ("", " ", "a\0b", 1, None)),
        (Texts("NAME"), (("a", ""), ["a"], "a", (1,))),
    ],
    ids=lambda each: type(each).__name__,
)
def test_what_is_out_of_the_range_or_of_another_type_is_not_allowed(kind: Kind, refused: tuple[Any, ...]) -> None:
    assert [value for value in refused if kind.allows(value)] == []


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        (Whole(1, 5), "two", "'two' is not a whole number."),
        (Whole(1, 5), "1_0", "'1_0' is not a whole number."),
        (WholeOrAuto(1, 5), "all", "'all' is neither 'auto' nor a whole number."),
        (WholeOrShared(1, 5), "10/cpus", "'10/cpus' is neither a whole number nor one with '/workers' after it."),
        (Factor(1, 5), "1e3", "'1e3' is not a number."),
        (Duration(), "soon", "'soon' is not a duration."),
        (Size(), "big", "'big' is not a size."),
        (Switch(), "maybe", "'maybe' is neither true nor false."),
    ],
)
def test_a_text_that_means_nothing_is_refused(kind: Kind, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(why)):
        kind.parse(text)


def test_a_duration_is_written_in_its_largest_whole_unit() -> None:
    written = [Duration().write(seconds) for seconds in (0, 0.05, 0.25, 1.5, 30, 90, 60, 3600, 5400, 0.0001)]
    assert written == ["0s", "50ms", "250ms", "1500ms", "30s", "90s", "1m", "1h", "90m", "0.0001s"]


def test_a_shared_number_is_divided_among_the_workers() -> None:
    assert [Shared(1000).of(workers) for workers in (1, 3, 8, 2000)] == [1000, 333, 125, 1]


def test_the_largest_size_is_read_as_it_is_written() -> None:
    largest = Size().at_most_bytes
    assert [Size().parse(Size().write(size)) for size in (largest, largest - 1)] == [largest, largest - 1]
