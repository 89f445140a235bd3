"""The status page in a real browser: every state, on a screen and a phone, in light and dark, without scripts too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from mxworker.observer.overview.overview import overview
from mxworker.observer.page.page import CONTENT_TYPE, page, policy
from tests.harness.chromium import Chromium, Tab, started
from tests.harness.scales import FULL_ONLY
from tests.harness.service_facts import STATES, renamed

SHOWN = {"degraded", "draining"}  # by every run: what is wrong, and what comes to its end
DESKTOP, PHONE = 1280, 390
HAS_SCROLLBAR = "document.documentElement.scrollWidth > innerWidth"
IS_LIVE = "document.getElementById('live').textContent.startsWith('Live')"
HOSTILE = "</td><script>alert(1)</script>\u202e\"'&lt;" + "n" * 255


@dataclass
class Site:
    """Serves pages, which the test may change meanwhile, under their content security policy."""

    pages: dict[str, bytes] = field(default_factory=dict)
    port: int = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    served = Site({name.replace(" ", "-"): page(overview(facts())) for name, facts in STATES.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = served.pages.get(self.path.strip("/"))
            self.send_response(200 if body is not None else 503)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Security-Policy", policy())
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.port = server.server_port
        Thread(target=server.serve_forever, daemon=True).start()
        yield served
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with started(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("screenshots")


@pytest.mark.parametrize(
    "state", [pytest.param(name.replace(" ", "-"), marks=() if name in SHOWN else FULL_ONLY) for name in STATES]
)
def test_each_state_is_shown(
    site: Site, browser: Chromium, pictures: Path, record_property: Callable[[str, str], None], state: str
) -> None:
    for width, dark in ((DESKTOP, False), (PHONE, True)):
        with browser.open(site.url(state), width=width, dark=dark) as tab:
            tab.wait(IS_LIVE)
            assert tab.complaints == []
            assert not tab.evaluate(HAS_SCROLLBAR), width
            tab.screenshot(pictures / f"{state}-{width}-{'dark' if dark else 'light'}.png")
    record_property("screenshots", str(pictures))


def test_a_page_without_scripts_has_everything(site: Site, browser: Chromium) -> None:
    with browser.open(site.url("degraded"), scripts=False) as tab, browser.open(site.url("degraded")) as live:
        live.wait(IS_LIVE)
        assert "Degraded: queue mails is not consumed" in tab.text
        assert "1,983,587 acked" in tab.text
        assert without_clock(tab) == without_clock(live)
        assert tab.complaints == []


def test_hostile_and_long_names_are_text(site: Site, browser: Chromium) -> None:
    site.pages["hostile"] = page(overview(renamed(STATES["degraded"](), HOSTILE)))
    for width in (DESKTOP, PHONE):
        with browser.open(site.url("hostile"), width=width) as tab:
            tab.wait(IS_LIVE)
            assert "<script>alert(1)</script>" in tab.text
            assert tab.complaints == []
            assert not tab.evaluate(HAS_SCROLLBAR), width


def test_the_page_follows_the_service_and_says_when_it_is_gone(site: Site, browser: Chromium) -> None:
    site.pages["now"] = site.pages["idle"]
    with browser.open(site.url("now")) as tab:
        tab.wait(IS_LIVE)
        tab.evaluate("document.querySelector('main h1').isTheSame = true")
        assert "57,331 acked" in tab.text

        site.pages["now"] = site.pages["degraded"]
        tab.wait("document.title.startsWith('Degraded')")
        assert "2,159,799 acked" in tab.text
        assert "What is wrong" in tab.text
        assert tab.evaluate("document.querySelector('main h1').isTheSame"), "what stays is changed, not made anew"
        assert tab.complaints == []

        del site.pages["now"]
        tab.wait("document.title === 'No answer'")
        assert "No answer since " in tab.text
        tab.wait("getComputedStyle(document.querySelector('main')).opacity < 0.5")

        site.pages["now"] = site.pages["idle"]
        tab.wait("document.title.startsWith('Working')")
        assert "No answer" not in tab.text
        assert "What is wrong" not in tab.text


def without_clock(tab: Tab) -> str:
    """Return the text of a page but the line that the script writes."""
    return str(tab.evaluate("[...document.querySelectorAll('main, footer')].map(e => e.innerText).join()"))
