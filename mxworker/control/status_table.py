"""The status of a service as a table for people. Pure. The status came over a socket, so its text is not trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mxworker.system.printable import foreign

_HEADINGS = (
    "slot",
    "pid",
    "state",
    "uptime",
    "in flight",
    "acked",
    "retried",
    "rejected",
    "timed out",
    "requeued",
    "RSS",
    "restarts",
    "last exit",
)
_TO_THE_LEFT = frozenset({"state", "last exit"})
_NOTE_LINES = 20
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def render(status: Mapping[str, Any]) -> str:
    """Return a few lines about the service, and one line for each worker.

    Raises LookupError, ValueError, TypeError, AttributeError or ArithmeticError when `status` is no status.
    """
    rows = [_HEADINGS, *(_row(worker) for worker in status["workers"] if worker["pid"] or worker["state"] != "empty")]
    return "\n".join(foreign(line).rstrip() for line in [*_summary(status), "", *_aligned(rows)])


def _summary(status: Mapping[str, Any]) -> list[str]:
    facts = [
        f"{'service':<11} {status['name']}, process {status['pid']}, mxworker {status['version']}",
        f"{'state':<11} {_state(status)}, for {_duration(status['uptime_s'])}",
        f"{'workers':<11} {status['workers_ready']} of {status['workers_wanted']} consume, "
        f"code generation {status['generation']}",
    ]
    if status.get("http"):
        facts.append(f"{'http':<11} {status['http']}")
    facts += [f"{'connection':<11} {text}" for text in _links(status.get("links", ()))]  # an older service has none
    facts += [f"{'queue':<11} {text}" for text in _unconsumed(status.get("unconsumed", ()))]
    paused = paused_text(status["paused"])
    if paused:
        facts.append(f"{'paused':<11} {paused}")
    if status["run_alone"]:
        facts.append(f"{'run alone':<11} {', '.join(status['run_alone'])}: their messages kill workers")
    reload = status["reload"]
    if reload["state"] != "none":
        why = f": {reload['why']}" if reload["why"] else ""
        facts.append(f"{'reload':<11} to generation {reload['generation']}: {reload['state']}{why}")
        facts += [f"{'':<11} {line}" for line in reload.get("note", "").split("\n")[:_NOTE_LINES] if line]
    return facts


def _links(links: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a text for each broker, and one for each fault of a connection."""
    up = dict.fromkeys(link["why"] for link in links if link["state"] == "up")
    bad = [
        f"{_of_workers(link)} to {link['role']}: {link['state']}: {link['why']}"
        for link in links
        if link["state"] != "up"
    ]
    return [*up, *bad]


def _unconsumed(queues: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a text for each queue that is not consumed for another reason than a pause by the operator."""
    return [
        f"{queue['queue']} is {queue['state']} in {_of_workers(queue)}: {queue['why']}"
        for queue in queues
        if queue["why"] != "operator"
    ]


def _of_workers(entry: Mapping[str, Any]) -> str:
    return f"{entry['workers']} {'worker' if entry['workers'] == 1 else 'workers'}"


def _state(status: Mapping[str, Any]) -> str:
    problem = status["unhealthy_because"] or status["unready_because"]
    return f"{status['state']}, {problem}" if problem else f"{status['state']}, ready"


def paused_text(paused: Mapping[str, Any]) -> str:
    """Return the paused queues as text, empty when none is paused."""
    named = ", ".join(paused["queues"])
    if paused["all"]:
        return f"all queues; by name: {named}" if named else "all queues"
    return named


def _row(worker: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        foreign(worker["slot"]),
        foreign(worker["pid"] or "-"),
        foreign(worker["consuming"] if worker["state"] == "running" else worker["state"]),
        "-" if worker["uptime_s"] is None else _duration(worker["uptime_s"]),
        f"{worker['in_flight']:,}",
        f"{worker['acked']:,}",
        f"{worker['retried']:,}",
        f"{worker['rejected'] + worker['undecodable']:,}",
        f"{worker['timed_out']:,}",
        f"{worker['requeued']:,}",
        _mebibytes(worker["rss_bytes"]),
        f"{worker['restarts']:,}",
        foreign(worker["last_exit"]),
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return ["  ".join(map(_padded, _HEADINGS, row, widths)) for row in rows]


def _padded(heading: str, cell: str, width: int) -> str:
    return cell.ljust(width) if heading in _TO_THE_LEFT else cell.rjust(width)


def _mebibytes(size_bytes: int | None) -> str:
    return f"{size_bytes / 2**20:.0f} MiB" if size_bytes else "-"


def _duration(seconds: float) -> str:
    """Return the two largest units of a duration: `3h 12m`."""
    left = round(seconds)
    parts: list[str] = []
    for unit_s, unit in _UNITS:
        count, left = divmod(left, unit_s)
        if count or parts:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
