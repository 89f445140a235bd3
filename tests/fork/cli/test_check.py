"""`mxworker check` without a broker: its exit code says whether the application is fit, and JSON is one document."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.hostile_text import assert_harmless
from tests.harness.repository import REPOSITORY
from tests.harness.scales import FULL_ONLY
from tests.harness.service import write_app

PATIENCE_S = 60.0
# What an application may do when it is imported: print, and start threads that never end.
APP = """
    import os
    import threading
    import time

    from mxworker import Handlers, PublisherSettings

    print("a line of the application")
    os.write(1, b"and one below Python")
    threading.Thread(target=time.sleep, args=(3600,)).start()
    handlers = Handlers(publisher=PublisherSettings(max_in_flight=77))


    @handlers.consume("orders", OPTIONS)
    async def order(payload: dict) -> None: ...
"""


def check(directory: Path, *arguments: str, app: str = APP, options: str = "") -> subprocess.CompletedProcess[bytes]:
    target = write_app(directory, app.replace("OPTIONS", options))
    ended = subprocess.run(
        [sys.executable, "-m", "mxworker", "check", target, *arguments],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert_harmless(ended.stderr.decode())
    return ended


def test_json_is_one_document_whatever_the_application_prints_and_starts(tmp_path: Path) -> None:
    ended = check(tmp_path, "--json", "--workers=3", options="prefetch=40")
    document = json.loads(ended.stdout)
    assert (ended.returncode, document["fit"], document["findings"]) == (0, True, [])
    assert b"a line of the application\n" in ended.stderr
    assert b"and one below Python" in ended.stderr
    assert document["totals"]["unsettled"] == {"per_worker": 40, "all_workers": 120}
    (handler,) = document["handlers"]
    assert (handler["name"], handler["queue"], handler["payload"], handler["prefetch"]) == (
        "order",
        "orders",
        "dict",
        40,
    )
    settings = {each["key"]: (each["value"], each["source"]) for each in document["settings"]}
    assert settings["publisher.max-in-flight"] == ("77", "the code")
    assert settings["workers"] == ("3", "--workers")
    names = [each["name"] for each in document["topology"]["queues"]]
    retries = [f"orders.retry.{step_ms}" for step_ms in (1000, 5000, 25000)]
    assert names == ["orders.dlq", "orders", *retries, "orders.quarantine"]


@pytest.mark.parametrize(
    ("arguments", "options", "code", "said"),
    [
        pytest.param((), "timeout=1800", 0, "Fit to run, as far as can be seen", id="warning", marks=FULL_ONLY),
        pytest.param(("--strict",), "timeout=1800", 1, "Not fit to run: 1 warning.", id="strict"),
        pytest.param(("-Q", "mails"), "", 2, "no handler consumes queue 'mails'", id="configuration", marks=FULL_ONLY),
        pytest.param((), "timeout=-1", 3, "it must be above 0 seconds", id="application", marks=FULL_ONLY),
        pytest.param(("--connect",), "", 2, "no broker URL", id="no URL", marks=FULL_ONLY),
        pytest.param(
            ("--connect", "--connect-wait=0", "--broker-url=amqp://user:secret@localhost:1/"),
            "",
            4,
            "localhost:1",
            id="no broker",
        ),
    ],
)
def test_exit_code_says_what_is_wrong(
    tmp_path: Path, arguments: tuple[str, ...], options: str, code: int, said: str
) -> None:
    ended = check(tmp_path, *arguments, options=options)
    shown = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == code
    assert said in shown
    assert "Traceback" not in shown
    assert "secret" not in shown


def test_error_is_a_document_too(tmp_path: Path) -> None:
    ended = check(tmp_path, "--json", app="import nothing_of_this_name")
    document: dict[str, Any] = json.loads(ended.stdout)
    assert (ended.returncode, document["exit_code"], document["fit"]) == (3, 3, False)
    assert "nothing_of_this_name" in document["error"]
