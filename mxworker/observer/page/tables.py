"""The tables of the status page. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mxworker.observer.overview.figures import NOTHING, clock, count, count_of, duration, rate, share, size
from mxworker.observer.page.html import Html, element, join
from mxworker.observer.page.icons import icon
from mxworker.observer.page.sparkline import sparkline

_LAG_S = 0.5
_NAMES = {
    "decode_error": "undecodable",
    "ack": "acked",
    "requeue": "requeued",
    "retry": "retried",
    "reject": "rejected",
    "timeout": "timed out",
    "quarantine": "put into quarantine",
}
_STATE_TONES = {
    "stopped": "bad",
    "not connected": "bad",
    "no worker": "bad",
    "waiting": "warn",
    "partly consumed": "warn",
    "backoff": "bad",
    "aborting": "bad",
    "killing": "bad",
    "connecting": "warn",
    "degraded": "warn",
}
_STATE_WORDS = {"waiting": "not consumed", "stopped": "not consumed, stopped", "backoff": "ended, starts again soon"}
View = Mapping[str, Any]


def section(title: str, *children: str) -> Html:
    """Return a section with its heading."""
    key = title.lower().replace(" ", "-")
    return element("section", element("h2", title, id=key), *children, aria_labelledby=key)


def lines(text: str) -> Html:
    """Return a text whose lines are divided by two blanks, as `printable.one_line` joins them."""
    parts = [part.strip() for part in text.split("  ") if part.strip()]
    return join(
        *(piece for number, part in enumerate(parts) for piece in ([element("br"), part] if number else [part]))
    )


# ---- queues

_QUEUE_HEADINGS = (
    "Queue",
    "Ready",
    "In flight",
    "Per second",
    "Duration p50",
    "Duration p95",
    "Age p95",
    "Outcomes",
    "Retries waiting",
    "Dead letters",
)


def queues(view: View) -> Html:
    """Return the table of queues."""
    if not view["queues"]:
        return section("Queues", element("p", "No worker has told of its queues yet.", class_="empty panel"))
    rows = [_queue_row(queue, view["history"], view["at_unix_s"]) for queue in view["queues"]]
    return section("Queues", _table(_QUEUE_HEADINGS, rows, words={"Queue", "Outcomes"}))


def _queue_row(queue: View, history: View, now_unix_s: float) -> list[Html]:
    curves = history["queues"].get(queue["queue"], {"ended_per_s": [], "ready": []})
    busy = "" if queue["utilisation"] is None else element("small", f"{share(queue['utilisation'])} busy")
    age, objective = queue["age_p95_s"], queue["objective_s"]
    is_late = age is not None and objective is not None and age > objective
    name = queue["queue"]
    as_of = _as_of(queue, now_unix_s)
    return [
        _queue_name(queue),
        _number("Ready", count(queue["ready"]), as_of, _spark(curves["ready"], f"ready in {name}")),
        _number(
            "In flight",
            f"{count(queue['in_flight'])} of {count(queue['slots'])}",
            busy,
            _small(queue["prefetched"], "{} waiting"),
            _alert(queue["stuck"], "{} stuck"),
        ),
        _number(
            "Per second", rate(queue["ended_per_s"]), _spark(curves["ended_per_s"], f"messages of {name} a second")
        ),
        _number("Duration p50", duration(queue["duration_p50_s"])),
        _number("Duration p95", duration(queue["duration_p95_s"])),
        _number(
            "Age p95",
            element("span", duration(age), class_="alert warn") if is_late else duration(age),
            element("small", f"objective {duration(objective)}") if objective is not None else "",
        ),
        _cell("Outcomes", _outcomes(queue["outcomes"]), _small(queue["redelivered"], "{} redelivered"), class_="wide"),
        _number("Retries waiting", count(queue["retry_waiting"]), as_of),
        _number("Dead letters", count(queue["dead_letters"]), as_of, _alert(queue["quarantined"], "{} in quarantine")),
    ]


def _as_of(queue: View, now_unix_s: float) -> str:
    """Return how old the depths of a queue are, if the broker could not be asked for a while."""
    if not queue["is_depth_old"]:
        return ""
    number, unit, *_ = duration(now_unix_s - queue["looked_at_unix_s"]).split()
    return element("small", element("span", f"{number} {unit} old", class_="alert warn"))


def _queue_name(queue: View) -> Html:
    consumers = queue["consumers"]
    what = queue["handler"] + (f", {count_of(consumers, 'consumer')}" if consumers is not None else "")
    state = "" if queue["state"] == "consumed" else element("div", _badge(queue["state"]))
    return _cell("Queue", element("bdi", queue["queue"]), state, element("small", element("bdi", what)))


def _outcomes(outcomes: Mapping[str, int]) -> str:
    found = [f"{count(number)} {_NAMES.get(name, name)}" for name, number in outcomes.items() if number]
    return ", ".join(found) or NOTHING


# ---- workers

_WORKER_HEADINGS = ("Worker", "State", "Up", "In flight", "Per second", "Loop lag", "Memory", "CPU", "Restarts")


def workers(view: View) -> Html:
    """Return the table of workers."""
    if not view["workers"]:
        return section("Workers", element("p", "No worker runs.", class_="empty panel"))
    return section(
        "Workers", _table(_WORKER_HEADINGS, [_worker_row(each) for each in view["workers"]], {"Worker", "State"})
    )


def _worker_row(worker: View) -> list[Html]:
    pid = f"process {worker['pid']}" if worker["pid"] is not None else "no process"
    late, lag = worker["heartbeat_late_s"], worker["loop_lag_s"]
    lag_text: str = duration(lag)
    if lag is not None and lag >= _LAG_S:
        lag_text = element("span", lag_text, class_="alert warn")
    return [
        _cell("Worker", f"Worker {worker['slot']}", element("small", pid)),
        _cell("State", _badge(worker["state"]), _alert(late and duration(late), "heartbeat {} late")),
        _number("Up", duration(None if worker["uptime_s"] is None else round(worker["uptime_s"]))),
        _number(
            "In flight",
            count(worker["in_flight"]),
            _small(worker["prefetched"], "{} waiting"),
            _alert(worker["stuck"], "{} stuck"),
        ),
        _number("Per second", rate(worker["ended_per_s"])),
        _number("Loop lag", lag_text),
        _number("Memory", size(worker["rss_bytes"] or None)),
        _number("CPU", share(worker["cpu"])),
        _number(
            "Restarts", count(worker["restarts"]), element("small", worker["last_exit"]) if worker["last_exit"] else ""
        ),
    ]


# ---- broker and publishing

_WAITS = {
    "window": "for a place (max_in_flight)",
    "connection": "for a connection",
    "room": "until the broker takes more",
    "exchange": "until it is known whether their exchange exists",
    "same id": "for a publish with the same id",
    "retry": "for the next attempt",
}
"""What publishes wait for, see `Cause`."""


def broker(view: View) -> Html:
    """Return the facts of the broker and the connections."""
    of = view["broker"]
    now = view["at_unix_s"]
    facts: list[tuple[str, str]] = []
    for link in of["links"]:
        tone = {"up": "good", "blocked": "warn"}.get(link["state"], "bad")
        who = f"{count_of(link['workers'], 'worker')} since {clock(link['since_unix_s'], now)}"
        told = join(_badge(link["state"], tone), " ", lines(link["why"]), element("small", who, class_="dim"))
        facts.append(({"consume": "To consume", "publish": "To publish"}.get(link["role"], link["role"]), told))
    facts += [(what.capitalize(), _by_role(of[what])) for what in ("connections", "channels")]
    wait_s = of["pool_wait_p95_s"]
    waited = "" if wait_s is None else f"; handlers waited for them: p95 {duration(wait_s)}"
    facts.append(("Borrowed channels", f"{count(of['borrowed_channels'])}{waited}"))
    facts.append(("Reconnects", _counts(of["reconnects"]) or "none"))
    return section("Broker and connections", _facts(facts))


def publishing(view: View) -> Html:
    """Return the facts of what handlers publish."""
    of = view["publishing"]
    waiting = ", ".join(f"{count(number)} {_WAITS[cause]}" for cause, number in of["waiting_for"].items() if number)
    facts: list[tuple[str, str]] = [
        ("In flight", count(of["in_flight"]) + (f"; waiting: {waiting}" if waiting else "")),
        ("Confirm", f"p50 {duration(of['confirm_p50_s'])}, p95 {duration(of['confirm_p95_s'])}"),
    ]
    if of["is_blocked"]:
        facts.insert(0, ("State", _badge("blocked by the broker", "warn")))
    for row in of["exchanges"]:
        name = row["exchange"] or "the default exchange"
        parts = (f"{rate(row['confirmed_per_s'])} per second", _counts(row["outcomes"]), size(row["bytes_sent"]))
        facts.append((name, "; ".join(filter(None, parts))))
    if not of["exchanges"]:
        facts.append(("Exchanges", "nothing was published yet"))
    return section("Publishing", _facts(facts))


def _by_role(counts: Mapping[str, Mapping[str, int]]) -> str:
    found = [f"{role}: {states}" for role, each in counts.items() if (states := _counts(each))]
    return "; ".join(found) or NOTHING


def _counts(counts: Mapping[str, int]) -> str:
    """Return `12 lost, 1 silent` without what is 0."""
    return ", ".join(f"{count(number)} {name}" for name, number in counts.items() if number)


def _facts(facts: Sequence[tuple[str, str]]) -> Html:
    found = [piece for name, text in facts for piece in (element("dt", element("bdi", name)), element("dd", text))]
    return element("dl", *found, class_="panel")


# ---- errors

_ERROR_HEADINGS = ("Error", "Handler", "Last 15 min", "In all", "Last")


def errors(view: View) -> Html:
    """Return the table of errors of handlers: their types, never their texts."""
    if not view["errors"]:
        return section(
            "Recent errors", element("p", "No handler has failed in the last 15 minutes.", class_="empty panel")
        )
    return section(
        "Recent errors",
        _table(_ERROR_HEADINGS, [_error_row(each, view["at_unix_s"]) for each in view["errors"]], {"Error", "Handler"}),
    )


def _error_row(error: View, now_unix_s: float) -> list[Html]:
    last = error["last_unix_s"]
    return [
        _cell("Error", element("bdi", error["error"])),
        _cell("Handler", element("bdi", error["handler"]), element("small", element("bdi", error["queue"]))),
        _number("Last 15 min", count(error["recent"])),
        _number("In all", count(error["total"])),
        _number("Last", clock(last, now_unix_s) if last else NOTHING),
    ]


# ---- cells


def _table(headings: Sequence[str], rows: Sequence[Sequence[Html]], words: set[str]) -> Html:
    """Return a table; columns that are not in `words` are numbers."""
    head = [element("th", name, scope="col", class_=None if name in words else "n") for name in headings]
    body = [element("tr", *cells) for cells in rows]
    table = element("table", element("thead", element("tr", *head)), element("tbody", *body))
    return element("div", table, class_="panel")


def _cell(label: str, *children: str, class_: str | None = None) -> Html:
    return element("td", *children, data_label=label, class_=class_)


def _number(label: str, *children: str) -> Html:
    return _cell(label, *children, class_="n")


def _badge(state: str, tone: str | None = None) -> Html:
    tone = tone or _STATE_TONES.get(state, "good" if state in ("ready", "consumed") else "calm")
    return element("span", icon(tone), _STATE_WORDS.get(state, state), class_=f"badge {tone}")


def _small(number: int | None, text: str) -> str:
    return element("small", text.format(count(number))) if number else ""


def _alert(value: int | str | None, text: str) -> str:
    if not value:
        return ""
    shown = value if isinstance(value, str) else count(value)
    return element("small", element("span", text.format(shown), class_="alert warn"))


def _spark(values: Sequence[float | None], what: str) -> str:
    known = [value for value in values if value is not None]
    return sparkline(values, f"{what}, last 15 minutes, at most {count(max(known))}") if known else ""
