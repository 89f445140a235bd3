"""The page: whole without its script, and whatever others named is text in it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mxworker.board.metrics_layout import Cause
from mxworker.observer.overview.facts import Facts
from mxworker.observer.overview.overview import overview
from mxworker.observer.page import page as page_module
from mxworker.observer.page.html import Html, element, join
from mxworker.observer.page.page import page, policy
from mxworker.observer.page.sparkline import path_of
from mxworker.observer.page.tables import _WAITS
from mxworker.system.printable import printable
from tests.harness import service_facts
from tests.harness.hostile_text import hidden_in
from tests.harness.service_facts import STATES, later, renamed

MOST_BYTES = 60_000
HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;\u202e"
VOID = {"meta", "link", "br"}


class Reader(HTMLParser):
    """Reads a page: the tags it has, the text of each, and whether all are closed."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(raw.decode())
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)


def read(facts: Facts) -> Reader:
    return Reader(page(overview(facts)))


@pytest.mark.parametrize("state", STATES)
def test_a_page_is_small_whole_and_begins_with_the_state(state: str) -> None:
    facts = STATES[state]()
    view = overview(facts)
    raw = page(view)
    assert len(raw) < MOST_BYTES
    shown = Reader(raw)
    headings = re.findall(r"<h1>(.*?)</h1>", raw.decode())
    assert headings == ["", view["state"]["text"]]
    for problem in view["problems"]:
        assert problem["remedy"] in shown.text
    for queue in view["queues"]:
        assert queue["queue"] in shown.words
    assert {"header", "main", "footer", "h1", "h2", "table", "th"} <= {tag for tag, _ in shown.tags}


def test_the_figures_of_a_busy_service_can_be_read() -> None:
    text = read(service_facts.load()).text
    for words in ("1,803,587 acked, 2,352 retried, 29 rejected", "38 of 64", "PaymentDeclined", "process 4101"):
        assert words in text


def test_hostile_names_stay_text() -> None:
    facts = renamed(service_facts.degraded(), HOSTILE)
    shown = read(facts)
    harmless = read(service_facts.degraded())
    assert {tag for tag, _ in shown.tags} <= {tag for tag, _ in harmless.tags}
    assert [tag for tag, _ in shown.tags].count("script") == 1
    assert {name for _, attributes in shown.tags for name in attributes} <= {
        name for _, attributes in harmless.tags for name in attributes
    }
    assert shown.words.count(printable(HOSTILE)) >= 10
    assert hidden_in(shown.text) == set()


def test_nothing_is_loaded_from_elsewhere_and_no_style_or_handler_is_inline() -> None:
    raw = page(overview(service_facts.degraded())).decode()
    shown = Reader(raw.encode())
    for tag, attributes in shown.tags:
        assert not {"style", "src"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert (attributes.get("href") or "/").startswith(("/", "data:")), tag
    assert "url(" not in raw
    assert "@import" not in raw


def test_the_policy_has_the_hashes_of_style_and_script_and_nothing_unsafe() -> None:
    raw = page(overview(service_facts.idle())).decode()
    for tag in ("style", "script"):
        [inside] = re.findall(f"<{tag}>(.*?)</{tag}>", raw, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy()
    assert "unsafe" not in policy()
    assert "default-src 'none'" in policy()


def test_a_page_without_queues_and_workers_says_so() -> None:
    before = service_facts.idle()
    metrics = replace(before.metrics, consumers=(), queues=(), exchanges=())
    text = read(later(before, replace(before.service, workers=()), lambda second: metrics, 1)).text
    assert "No worker has told of its queues yet." in text
    assert "No worker runs." in text


def test_depths_that_are_old_are_shown_with_their_age() -> None:
    lost = service_facts.lost_broker()
    text = read(replace(lost, now_unix_s=lost.now_unix_s + 3600)).text
    assert text.count("1 h old") == 3 * len(lost.metrics.queues)
    assert "not known now" in text
    assert " old" not in read(service_facts.load()).text


def test_what_publishes_wait_for_is_told_in_words() -> None:
    assert set(_WAITS) == {cause.label for cause in Cause}
    assert "112 until the broker takes more, 41 for a place (max_in_flight)" in read(service_facts.degraded()).text


def test_elements_escape_what_is_no_html() -> None:
    assert element("p", "<b>", Html("<i>"), class_="a", data_x='"', hidden=True, id=None) == (
        '<p class="a" data-x="&quot;" hidden>&lt;b&gt;<i></p>'
    )
    assert join("a & b", element("br")) == "a &amp; b<br>"


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ([], ""),
        ([3], "M89 0h0"),
        ([0, 0, 0], "M87 24h2"),
        ([0, 5, 10, 10, 10], "M85 24l1-12l1-12h2"),
        ([10, 0], "M88 0l1 24"),
        ([None, 5, 10, None, None, 10, None], "M84 12l1-12M88 0h0"),
        ([None, None], ""),
    ],
)
def test_a_curve_ends_at_the_right_edge_and_has_gaps(values: list[float | None], path: str) -> None:
    assert path_of(values) == path


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast(scheme: str) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    style = Path(page_module.__file__).with_name("page.css").read_text()
    colours = dict(
        re.findall(
            r"--([a-z-]+): (#[0-9a-f]{3,6});", re.findall(r":root \{(.*?)\}", style, re.DOTALL)[scheme == "dark"]
        )
    )
    for text in ("text", "dim", "accent", "good", "warn", "bad", "calm"):
        for ground in ("bg", "card", *([f"{text}-bg"] if f"{text}-bg" in colours else [])):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for ground in ("good-bg", "warn-bg", "bad-bg", "calm-bg"):
        assert contrast(colours["text"], colours[ground]) >= 4.5, ground


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
