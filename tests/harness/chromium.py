"""A headless Chromium that tests look at a page with, driven over pipes by its DevTools protocol.

    with started(tmp_path) as chromium:
        tab = chromium.open("http://127.0.0.1:9191/", width=390)
        assert tab.evaluate("document.title") == "Working - shop"
        assert tab.complaints == []
        tab.screenshot(tmp_path / "phone.png")

https://chromedevtools.github.io/devtools-protocol/ has the methods and events. Messages are JSON, each ended by NUL, on
the descriptors 3 and 4 of the browser (--remote-debugging-pipe).
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.rabbit.processes import DIES_WITH_PARENT

PATIENCE_S = 60.0
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",  # tests may run as root, and load nothing but our own page
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)


MISSING = (
    "chromium is missing, so nobody has looked at the status page; "
    "on Debian:  sudo apt-get install --no-install-recommends chromium fonts-dejavu-core"
)


def program() -> str | None:
    """Return the path of the browser, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def started(directory: Path) -> Chromium:
    """Start the browser with its profile in `directory`; skip the test where it is missing."""
    if program() is None:
        pytest.skip(MISSING)
    return Chromium(directory)


class Chromium:
    """One browser. Leaving the block ends it."""

    def __init__(self, directory: Path) -> None:
        """Start it with its profile in `directory`."""
        browser = program()
        assert browser is not None, MISSING
        read_from_us, self._to = os.pipe()
        self._from, write_to_us = os.pipe()
        shell = f'exec "$@" 3<&{read_from_us} 4>&{write_to_us}'  # the browser wants the descriptors 3 and 4
        command = [browser, *FLAGS, f"--user-data-dir={directory / 'chromium'}", "about:blank"]
        self._process = subprocess.Popen(
            [*DIES_WITH_PARENT, "bash", "-c", shell, "bash", *command],
            pass_fds=(read_from_us, write_to_us),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_from_us)
        os.close(write_to_us)
        self._numbers = itertools.count(1)
        self._unread = b""
        self._came: deque[dict[str, Any]] = deque()
        self._tabs: dict[str, Tab] = {}

    def __enter__(self) -> Chromium:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        try:
            self.call("Browser.close")
        except (AssertionError, OSError):
            self._process.kill()
        self._process.wait(PATIENCE_S)
        os.close(self._to)
        os.close(self._from)

    def open(self, url: str, *, width: int = 1280, height: int = 800, dark: bool = False, scripts: bool = True) -> Tab:
        """Open a page in a tab of its own, and wait until it is loaded."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = self._tabs[session] = Tab(self, session)
        for domain in ("Page", "Runtime", "Log"):
            tab.call(f"{domain}.enable")
        tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        tab.call("Emulation.setEmulatedMedia", features=[scheme])
        tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        tab.call("Page.navigate", url=url)
        self.wait(lambda: "Page.loadEventFired" in tab.events, f"{url} to load")
        return tab

    def call(self, method: str, session: str | None = None, /, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        number = next(self._numbers)
        request = {"id": number, "method": method, "params": parameters}
        os.write(self._to, json.dumps(request | ({"sessionId": session} if session else {})).encode() + b"\0")
        answers: list[dict[str, Any]] = []

        def has_answer() -> bool:
            answers.extend(message for message in self._read() if message.get("id") == number)
            return bool(answers)

        self.wait(has_answer, f"an answer to {method}")
        assert "error" not in answers[0], f"{method}: {answers[0]['error']}"
        return answers[0]["result"]  # type: ignore[no-any-return]

    def wait(self, holds: Callable[[], object], what: str) -> None:
        """Read what the browser says until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s for {what}"
            self._receive(0.2)

    def _read(self) -> list[dict[str, Any]]:
        found = list(self._came)
        self._came.clear()
        return found

    def _receive(self, patience_s: float) -> None:
        if not select.select([self._from], [], [], patience_s)[0]:
            return
        chunk = os.read(self._from, 1 << 20)
        assert chunk, "the browser has ended"
        *messages, self._unread = (self._unread + chunk).split(b"\0")
        for raw in messages:
            message = json.loads(raw)
            if "id" in message:
                self._came.append(message)
            elif message.get("sessionId") in self._tabs:
                self._tabs[message["sessionId"]].note(message["method"], message.get("params", {}))


class Tab:
    """One page. Leaving its block closes it."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self.events: list[str] = []
        """The names of the events so far."""
        self.complaints: list[str] = []
        """Errors and warnings on its console: of scripts, of loading, and of its content security policy."""
        self._browser = browser
        self._session = session

    def __enter__(self) -> Tab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.call("Page.close")

    def note(self, event: str, facts: dict[str, Any]) -> None:
        """Take in an event."""
        self.events.append(event)
        match event:
            case "Runtime.exceptionThrown":
                self.complaints.append(str(facts["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if facts["type"] in ("error", "warning", "assert"):
                self.complaints.append(str(facts["args"]))
            case "Log.entryAdded" if facts["entry"]["level"] in ("error", "warning"):
                self.complaints.append(f"{facts['entry']['text']} {facts['entry'].get('url', '')}")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the page."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, also where the page runs no scripts."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        self._browser.wait(lambda: self.evaluate(expression), expression)

    @property
    def text(self) -> str:
        """The text that a person sees."""
        return str(self.evaluate("document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        """Write the whole page as a PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        path.write_bytes(base64.b64decode(shot["data"]))
