"""The report of a check for people. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from mxworker.api.compilation import Handler
from mxworker.cli.check.comparison import Compared
from mxworker.cli.check.findings import Finding, Level
from mxworker.cli.check.report import NOT_VISIBLE, Report
from mxworker.cli.check.totals import Total, size
from mxworker.cli.check.words import KINDS, arguments_in_words, failure_of, payload_of
from mxworker.config.units import format_duration
from mxworker.errors import ExitCode
from mxworker.system.printable import by_line, foreign

_WIDTH = 100
_LABEL = 12


def text_of(report: Report) -> str:
    """Return the whole report."""
    sections = [
        _head(report),
        _handlers(report.handlers),
        _settings(report),
        _totals(report),
        _topology(report),
        _findings(report.findings),
        [verdict(report)],
    ]
    return by_line("\n\n".join("\n".join(lines) for section in sections if (lines := list(section))))


def verdict(report: Report) -> str:
    """Return in one sentence whether the application is fit to run."""
    errors = sum(finding.level is Level.ERROR for finding in report.findings)
    counts = " and ".join(filter(None, (_counted(errors, "error"), _counted(len(report.findings) - errors, "warning"))))
    if report.exit_code is not ExitCode.OK:
        return f"Not fit to run: {counts}."
    seen = "and fits the broker" if report.broker is not None else "as far as can be seen without a broker (--connect)"
    return f"Fit to run, {seen}" + (f": {counts}." if counts else ".")


def _head(report: Report) -> Iterator[str]:
    yield _labelled("app", foreign(report.app))
    yield _labelled("workers", f"{report.workers} ({report.workers_origin})")
    if report.broker is None:
        yield _labelled("broker", "not asked; --connect compares the topology with it")
    else:
        yield _labelled("broker", f"{report.broker.server} at {report.broker.url}")


def _handlers(handlers: Sequence[Handler]) -> Iterator[str]:
    yield "Handlers"
    for handler in handlers:
        yield f"  {handler.queue.name}: {foreign(handler.name)}({payload_of(handler)})"
        facts = [
            KINDS[handler.kind],
            f"concurrency {handler.concurrency}",
            f"prefetch {handler.prefetch}",
            f"timeout {format_duration(handler.timeout_s)}",
        ]
        if handler.batch is not None:
            facts.append(f"batches of {handler.batch.size} or {format_duration(handler.batch.wait_s)}")
        yield f"    {', '.join(facts)}"
        yield f"    {failure_of(handler)}"


def _settings(report: Report) -> Iterator[str]:
    changed = [row for row in report.settings if not row.is_default]
    yield f"Settings ({len(changed)} of {len(report.settings)} given; 'mxworker config show' prints all)"
    width = max((len(row.key) for row in changed), default=0)
    for row in changed:
        value = "-" if row.value is None else row.value
        yield f"  {foreign(row.key):<{width}}  {foreign(value)}  ({foreign(row.source)})"


def _totals(report: Report) -> Iterator[str]:
    yield f"{'At most':<36}{'each worker':>12}{_counted(report.workers, 'worker'):>14}"
    for total in report.totals:
        yield f"  {total.what:<34}{_amount(total, total.per_worker):>12}{_amount(total, total.of_all):>14}"
    host = report.host
    files = "no limit on open files" if host.open_files is None else f"{host.open_files} open files for each process"
    yield f"  This host allows {files}, and has {size(host.memory_bytes)} of memory ({host.memory_origin})."


def _amount(total: Total, number: int) -> str:
    return size(number) if total.is_bytes else f"{number:,}"


def _topology(report: Report) -> Iterator[str]:
    yield "Topology"
    rows = [*map(_queue, report.topology), *_bindings(report.topology)]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for name, described, state in rows:
        yield f"  {name:<{widths[0]}}  {described:<{widths[1]}}  {state}"
    if report.broker is not None:
        yield from _wrapped(f"  Not visible over AMQP: {'; '.join(NOT_VISIBLE)}.", "", "  ")


def _queue(compared: Compared) -> tuple[str, str, str]:
    found, state = compared.found, compared.state
    if found is not None and found.is_there and not found.trouble:
        state += f" ({_counted(found.messages, 'message')}, {_counted(found.consumers, 'consumer')})"
    described = arguments_in_words(compared.wanted) if compared.wanted.declare == "ensure" else "declared by others"
    return compared.wanted.name, described, state


def _bindings(topology: Sequence[Compared]) -> Iterator[tuple[str, str, str]]:
    queues = {each.queue.name: each.queue for each in topology}
    for queue in queues.values():
        for exchange, routing_key in queue.bind:
            yield queue.name, f"bound to {foreign(exchange)} by '{foreign(routing_key)}'", "will be bound"


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    for finding in findings:
        yield from finding_text(finding)


def finding_text(finding: Finding) -> Iterator[str]:
    """Yield the lines about a finding: whom it concerns, what is wrong, its name, and the ways to mend it."""
    yield from _wrapped(f"{finding.level.value}: {finding.subject} {finding.text}. [{finding.name}]", "", "  ")
    for way in finding.remedy.splitlines():
        yield f"  {way}"


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )


def _labelled(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}"


def _counted(number: int, thing: str) -> str:
    """Return such as "2 errors"; nothing for none of errors and warnings."""
    if number == 0 and thing in ("error", "warning"):
        return ""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
