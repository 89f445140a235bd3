"""The status page: one HTML document made of what `overview` returns, with its style, script and icon inside.

It is whole without its script, which asks for the same page every two seconds and changes what is different. So there
is one place where figures become text, and what a person sees is the same with and without the script.

Pure, but for reading the files beside it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mxworker.observer.overview.figures import clock, count, duration, rate
from mxworker.observer.page import tables
from mxworker.observer.page.html import Html, element, join
from mxworker.observer.page.icons import icon, svg_of
from mxworker.observer.page.sparkline import sparkline

CONTENT_TYPE = "text/html; charset=utf-8"
_REFRESH_S = "10"
_TONES = {
    "working": "good",
    "degraded": "warn",
    "starting": "calm",
    "paused": "calm",
    "draining": "calm",
    "not consuming": "bad",
    "unsupervised": "bad",
}
_COLOURS = {"good": "#1f9d55", "warn": "#d98a00", "bad": "#d93636", "calm": "#7b8794"}
_SEVERITIES = {"critical": "bad", "warning": "warn", "note": "calm"}
_UNKNOWN = "not known now"
_LINKS = ("/metrics", "/status.json", "/livez", "/readyz")


def policy() -> str:
    """Return the content security policy of the page: it runs its own script, and asks its own service alone."""
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; "
        f"img-src data:; style-src {_hash_of(_file('page.css'))}; script-src {_hash_of(_file('page.js'))}"
    )


def page(view: Mapping[str, Any]) -> bytes:
    """Return the page for a view that `overview` has made."""
    name, state = view["service"]["name"], view["state"]
    tone = _TONES[state["state"]]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("title", f"{state['state'].capitalize()} - {name}"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("noscript", element("meta", http_equiv="refresh", content=_REFRESH_S)),
        element("link", rel="icon", href=f"data:image/svg+xml,{quote(svg_of(tone, _COLOURS[tone]))}"),
        element("style", Html(_file("page.css"))),
    )
    body = element(
        "body",
        _lost(),
        _header(view),
        element("main", *_sections(view, tone)),
        _footer(view),
        element("script", Html(_file("page.js"))),
        data_build=_build(),
    )
    return join(Html("<!DOCTYPE html>\n"), element("html", head, body, lang="en")).encode()


def _sections(view: Mapping[str, Any], tone: str) -> list[Html]:
    return [
        _state(view["state"], tone),
        _problems(view),
        _figures(view),
        tables.queues(view),
        tables.workers(view),
        element("div", tables.broker(view), tables.publishing(view), class_="pair"),
        tables.errors(view),
        _notes(view),
    ]


def _lost() -> Html:
    """Return what the script shows when the service does not answer."""
    text = element("p", "The service has ended, hangs, or cannot be reached. What is shown below is from that time.")
    return element(
        "div",
        icon("bad"),
        element("div", element("h1"), text),
        id="lost",
        class_="state bad",
        role="alert",
        hidden=True,
        data_keep=True,
    )


def _header(view: Mapping[str, Any]) -> Html:
    service = view["service"]
    facts = (
        f"mxworker {service['version']}",
        f"process {service['pid']}",
        f"up {duration(round(service['uptime_s']))}",
        f"code generation {service['generation']}",
    )
    return element(
        "header",
        element("strong", element("bdi", service["name"])),
        *(element("span", fact, class_="dim") for fact in facts),
        element("span", _as_of(view), id="live", data_keep=True),
    )


def _state(state: Mapping[str, Any], tone: str) -> Html:
    said = element("div", element("h1", state["text"]), role="status")  # a screen reader tells when it changes
    text = element("div", said, element("p", state["detail"]))
    return element("section", icon(tone), text, class_=f"state {tone}", aria_label="State")


def _problems(view: Mapping[str, Any]) -> Html:
    found = [problem for problem in view["problems"] if problem["severity"] != "note"]
    entries = [_problem(problem, view["at_unix_s"]) for problem in found]
    return tables.section("What is wrong", element("ul", *entries, class_="problems")) if entries else _nothing()


def _notes(view: Mapping[str, Any]) -> Html:
    found = [problem for problem in view["problems"] if problem["severity"] == "note"]
    entries = [_problem(problem, view["at_unix_s"]) for problem in found]
    return tables.section("Worth knowing", element("ul", *entries, class_="problems brief")) if entries else _nothing()


def _nothing() -> Html:
    """Return what keeps the place of a section, so that the script finds each section at its place."""
    return element("section", hidden=True)


def _problem(problem: Mapping[str, Any], now_unix_s: float) -> Html:
    since_unix_s = problem["since_unix_s"]
    since = ""
    if since_unix_s is not None:
        for_s = duration(round(max(0, now_unix_s - since_unix_s)))
        since = element("span", f" since {clock(since_unix_s, now_unix_s)}, for {for_s}", class_="dim")
    tone = _SEVERITIES[problem["severity"]]
    what = problem["what"][:1].upper() + problem["what"][1:] + problem["extent"]
    return element(
        "li",
        icon(tone, problem["severity"].capitalize()),
        element("h3", what, since),
        element("p", tables.lines(problem["why"])),
        element("p", element("span", "To do: ", class_="dim"), problem["remedy"]),
        class_=tone,
    )


def _figures(view: Mapping[str, Any]) -> Html:
    totals, history = view["totals"], view["history"]
    done = _curve(history, "ended_per_s", "messages a second")
    fails = _curve(history, "failed_per_s", "failures a second")
    running = _curve(history, "in_flight", "in flight")
    published = _curve(history, "published_per_s", "publishes a second")
    retries = _UNKNOWN if totals["ready"] is None else f"{count(totals['retry_waiting'])} wait for a retry"
    quarantined = f", {count(totals['quarantined'])} in quarantine" if totals["quarantined"] else ""
    dead = _UNKNOWN if totals["dead_letters"] is None else f"of all queues{quarantined}"
    return element(
        "section",
        _figure("Messages per second", rate(totals["ended_per_s"]), f"{count(totals['acked'])} acked", done),
        _figure(
            "Failures per second",
            rate(totals["failed_per_s"]),
            f"{count(totals['failed'])} failed",
            fails,
            class_="fails",
        ),
        _figure("In flight", count(totals["in_flight"]), f"{count(totals['prefetched'])} wait in workers", running),
        _figure("Publishes per second", rate(totals["published_per_s"]), "confirmed", published),
        _figure("Ready in queues", count(totals["ready"]), retries),
        _figure("Dead letters", count(totals["dead_letters"]), dead),
        class_="figures",
        aria_label="Figures",
    )


def _figure(label: str, value: str, below: str, curve: str = "", class_: str | None = None) -> Html:
    caption = element("figcaption", label)
    return element("figure", caption, element("b", value), element("small", below), curve, class_=class_)


def _curve(history: Mapping[str, Any], name: str, what: str) -> Html:
    values: Sequence[float] = history[name]
    return sparkline(values, f"{what} in the last 15 minutes, at most {count(max(values, default=0))}")


def _footer(view: Mapping[str, Any]) -> Html:
    links = [element("a", path, href=path) for path in _LINKS]
    windows = "Rates are of the last 5 s, quantiles of 1 min, curves of 15 min."
    return element("footer", element("span", f"{_as_of(view)}. {windows}"), *links)


def _as_of(view: Mapping[str, Any]) -> str:
    return f"As of {clock(view['at_unix_s'], view['at_unix_s'])}"


# ---- the files beside this one


@cache
def _file(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _hash_of(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _build() -> str:
    """Return what tells this version of style and script from others."""
    return hashlib.sha256((_file("page.css") + _file("page.js")).encode()).hexdigest()[:12]
