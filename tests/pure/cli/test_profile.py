"""What `mxworker ctl profile` refuses before it asks a service."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from mxworker.cli import main


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "Say either --cpu or --memory."),
        (["--cpu", "--memory"], "Say either --cpu or --memory."),
        (["--cpu", "0s"], "A profile takes from 0.1 to 600 seconds."),
        (["--memory", "0s"], "A profile takes from 0.1 to 600 seconds."),
        (["--memory", "601s"], "A profile takes from 0.1 to 600 seconds."),
    ],
)
def test_profile_of_no_kind_or_of_a_time_out_of_range_is_a_usage_error(flags: list[str], text: str) -> None:
    ended = CliRunner().invoke(main, ["ctl", "profile", *flags])
    assert ended.exit_code == 2
    assert text in ended.output
