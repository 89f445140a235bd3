"""The report of a check for programs, as one JSON document. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mxworker.api.compilation import Handler
from mxworker.cli.check.comparison import Compared
from mxworker.cli.check.findings import Finding
from mxworker.cli.check.report import NOT_VISIBLE, Report
from mxworker.cli.check.words import payload_of
from mxworker.errors import ExitCode, MxWorkerError


def document_of(report: Report) -> dict[str, Any]:
    """Return the whole report. Durations are in seconds."""
    broker = report.broker
    return {
        "fit": report.exit_code is ExitCode.OK,
        "exit_code": int(report.exit_code),
        "error": None,
        "app": report.app,
        "workers": report.workers,
        "findings": [_finding(each) for each in report.findings],
        "handlers": [_handler(each) for each in report.handlers],
        "settings": [row.as_fields() for row in report.settings],
        "totals": {each.name: {"per_worker": each.per_worker, "all_workers": each.of_all} for each in report.totals},
        "host": {"open_files": report.host.open_files, "memory_bytes": report.host.memory_bytes},
        "topology": {"queues": [_queue(each) for each in report.topology], "bindings": _bindings(report.topology)},
        "broker": None
        if broker is None
        else {
            "url": broker.url,
            "server": broker.server,
            "channel_max": broker.channel_max,
            "arguments_compared": broker.is_compared,
            "not_visible": list(NOT_VISIBLE),
        },
    }


def failure_document(app: str, error: MxWorkerError) -> dict[str, Any]:
    """Return the document of a check that came to no report."""
    return {"fit": False, "exit_code": int(error.exit_code), "error": str(error), "app": app, "findings": []}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "level": finding.level.value,
        "subject": finding.subject,
        "text": finding.text,
        "remedy": finding.remedy.splitlines(),
    }


def _handler(handler: Handler) -> dict[str, Any]:
    batch, retry = handler.batch, handler.retry
    return {
        "name": handler.name,
        "queue": handler.queue.name,
        "kind": handler.kind.name.lower(),
        "payload": payload_of(handler),
        "concurrency": handler.concurrency,
        "prefetch": handler.prefetch,
        "timeout_s": handler.timeout_s,
        "objective_s": handler.objective_s,
        "batch": None if batch is None else {"size": batch.size, "wait_s": batch.wait_s, "max_bytes": batch.max_bytes},
        "on_error": handler.on_error,
        "retry": None if retry is None else {"max_retries": retry.max_retries, "delays_s": list(retry.delays)},
    }


def _queue(compared: Compared) -> dict[str, Any]:
    wanted, found = compared.wanted, compared.found
    return {
        "name": wanted.name,
        "role": wanted.role,
        "declare": wanted.declare,
        "arguments": _jsonable(wanted.arguments),
        "state": compared.state,
        "broker": None
        if found is None
        else {
            "exists": found.is_there,
            "messages": found.messages,
            "consumers": found.consumers,
            "may_declare": found.may_declare,
            "may_consume": compared.may_consume,
            "compared": found.is_compared,
            "differences": [{"key": each.key, "code": each.ours, "broker": each.theirs} for each in found.differences],
        },
    }


def _bindings(topology: Sequence[Compared]) -> list[dict[str, str]]:
    queues = {each.queue.name: each.queue for each in topology}
    return [
        {"exchange": exchange, "queue": queue.name, "routing_key": routing_key}
        for queue in queues.values()
        for exchange, routing_key in queue.bind
    ]


def _jsonable(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in arguments.items()}


def _plain(value: Any) -> Any:
    """Return a value of an argument as JSON has it; those of other types as text."""
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
