"""What `mxworker dev` was told is what the service is told, without the password on its command line."""

from __future__ import annotations

import pytest

from mxworker.cli.dev.command import dev, service_command, service_environment
from mxworker.cli.run import run

URL = "amqp://me:S3cr3t@rabbit/"


@pytest.mark.parametrize(
    "said",
    [
        [],
        ["--workers=auto"],
        ["--workers=3", "-c", "7", "--prefetch=9", "--queues=a, b", "--burst", "--broker-shuffle"],
        ["--handler-timeout=250ms", "--drain-timeout=5m", "--prefetch-budget=1GiB", "--log-format=json"],
        [f"--broker-url={URL}", "--broker-url=amqp://other/", "--tls-ca=a file.pem"],
    ],
)
def test_service_is_told_what_dev_was_told(said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.setenv("MXWORKER_WORKERS", "5")
    monkeypatch.setenv("MXWORKER_CONNECT_WAIT", "7s")
    told = dev.make_context("dev", ["app:handlers", *said]).params
    command = service_command(run, told)
    environment = service_environment(run, told)
    assert not any("S3cr3t" in part for part in command)
    assert "PYTHONDONTWRITEBYTECODE" not in environment, "mxworker itself would be compiled at each start"
    for name in ("MXWORKER_WORKERS", "MXWORKER_CONNECT_WAIT"):
        assert name not in environment
        monkeypatch.delenv(name)
    if "MXWORKER_BROKER_URL" in environment:
        monkeypatch.setenv("MXWORKER_BROKER_URL", environment["MXWORKER_BROKER_URL"])
    understood = run.make_context("run", command[command.index("run") + 1 :]).params
    for name in ("dies_with", "ready_hint", "hide_workings"):
        understood.pop(name)
    assert understood == {name: value for name, value in told.items() if name not in ("reload_dir", "no_keys")}


def test_service_runs_under_the_options_of_our_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.warnoptions", ["error::UserWarning"])
    command = service_command(run, dev.make_context("dev", ["app"]).params)
    assert "-Werror::UserWarning" in command[: command.index("-m")]


def test_dev_has_every_option_of_run_and_other_defaults() -> None:
    told = dev.make_context("dev", ["app"]).params
    assert {option.name for option in run.params} - told.keys() == {"dies_with", "ready_hint", "hide_workings"}
    assert told["connect_wait"] > 24 * 3600  # a broker that is down is waited for
    assert (told["workers"], told["drain_timeout"], told["log_level"], told["log_format"]) == (1, 5.0, "debug", "text")
