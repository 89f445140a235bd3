"""Whether a process has a tracer."""

from __future__ import annotations

import logging
import sys

import pytest

from mxworker.tracing.tracer import find_tracer, set_up_from


def test_process_that_has_not_imported_opentelemetry_has_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)
    assert find_tracer() is None


def test_import_of_opentelemetry_alone_is_no_tracer() -> None:
    import opentelemetry.trace  # noqa: F401

    assert find_tracer() is None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_SERVICE_NAME": "shop"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_environment_that_asks_for_no_traces_sets_nothing_up(environment: dict[str, str]) -> None:
    set_up_from(environment)
    assert find_tracer() is None


def test_environment_that_asks_without_the_extra_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with caplog.at_level(logging.WARNING):
        set_up_from({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"})
    assert "nothing is traced. Install opentelemetry-sdk" in caplog.text
