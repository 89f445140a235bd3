"""Tests that `make test` leaves out: `--full` runs them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest
from _pytest.mark import ParameterSet

FULL_ONLY = pytest.mark.skipif("not config.getoption('--full')", reason="much like one that runs: --full runs it too")
"""Marks a case that differs little from another one of the same test, which always runs."""


def crossed(*axes: Iterable[Any]) -> list[ParameterSet]:
    """Return all combinations of values; those that always run are as few as have every value of each axis."""
    values = [list(axis) for axis in axes]
    usual = {tuple(index % len(axis) for axis in values) for index in range(max(map(len, values)))}
    return [
        pytest.param(
            *(axis[index] for axis, index in zip(values, indices, strict=True)), marks=_marks(indices in usual)
        )
        for indices in product(*(range(len(axis)) for axis in values))
    ]


def among(values: Iterable[Any], *usual: Any) -> list[ParameterSet]:
    """Return values, of which only the `usual` ones always run."""
    return [pytest.param(value, marks=_marks(value in usual)) for value in values]


def _marks(is_usual: bool) -> tuple[pytest.MarkDecorator, ...]:
    return () if is_usual else (FULL_ONLY,)
