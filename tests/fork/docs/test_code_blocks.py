"""Every code block of the documentation is run, or checked as far as that can be done without a service.

A test here is named after its page and line. CONTRIBUTING.md says what happens to a block of each language.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import mxworker
from mxworker.devbroker.process import start_broker
from mxworker.errors import ConfigError, MxWorkerError
from tests.fork.docs.config_blocks import check_dockerfile, check_json, check_toml, check_unit, check_yaml
from tests.fork.docs.python_blocks import GIVEN, compiled, is_program, run_python
from tests.fork.docs.shell_blocks import check_shell
from tests.harness.pages import BEFORE, COPIED_FROM, MARKS, NOT_RUN, PAGES, TESTED_BY, Block, blocks
from tests.harness.repository import REPOSITORY

BLOCKS = [block for page in PAGES for block in blocks(page)]
CHECKS = {
    "toml": check_toml,
    "yaml": check_yaml,
    "ini": check_unit,
    "json": check_json,
    "dockerfile": check_dockerfile,
}
SHELLS = ("sh", "console")
MOST_NOT_RUN = 1 / 8
"""The part of all blocks that may be marked as not run."""

of_each_block = pytest.mark.parametrize("block", BLOCKS, ids=str)


@pytest.fixture(scope="module")
def broker_url() -> Iterator[Callable[[], str]]:
    """Return a function for the URL of a broker, which starts when it is first called."""
    started = []

    def url() -> str:
        if not started:
            started.append(start_broker())
        return started[0].url

    yield url
    for broker in started:
        broker.stop()


@pytest.fixture(autouse=True)
def _reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty directory, without settings, and be told of mistakes in text."""
    for variable in [name for name in os.environ if name.startswith("MXWORKER_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("MXWORKER_LOG_FORMAT", "text")
    monkeypatch.chdir(tmp_path)


@contextmanager
def logging_undone() -> Iterator[None]:
    """Undo what code does to the configuration of logging."""
    root = logging.getLogger()
    handlers, level = root.handlers.copy(), root.level
    known = [each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    enabled = [each for each in known if not each.disabled]
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for each in enabled:
            each.disabled = False


@of_each_block
def test_block_is_right(
    block: Block,
    broker_url: Callable[[], str],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    runs_here = not block.marks.keys() & {NOT_RUN, TESTED_BY, COPIED_FROM}
    match block.language:
        case "python":
            compiled(block.text, str(block), block.line)
            if runs_here:
                with logging_undone():
                    run_python(block, tmp_path, broker_url, request.getfixturevalue)
        case "sh":
            check_shell(block.text, runs_here)
        case "console":
            typed = re.findall(r"^\$ (.*(?:\\\n.*)*)$", block.text, re.MULTILINE)
            check_shell("\n".join(typed), runs_here)
        case "text":
            assert not runs_here, "output needs a mark that says which test shows it: <!-- tested by: tests/... -->"
        case language if check := CHECKS.get(language):
            check(block.text)
        case language:
            known = ("python", *SHELLS, "text", *CHECKS)
            assert language in known, f"the language {language!r} is none of {', '.join(known)}"


@of_each_block
def test_marks_of_the_block_hold(block: Block) -> None:
    assert block.marks.keys() <= set(MARKS)
    if TESTED_BY in block.marks:
        test = REPOSITORY / block.marks[TESTED_BY].partition(" ")[0].partition("::")[0]
        assert test.exists(), f"there is no {test}"
        assert block.page.name in test.read_text(), f"{test} does not name {block.page.name}"
    if COPIED_FROM in block.marks:
        source = [line.strip() for line in (REPOSITORY / block.marks[COPIED_FROM]).read_text().splitlines()]
        assert [line for line in block.text.splitlines() if line.strip() not in source] == []
    if NOT_RUN in block.marks:
        assert len(block.marks[NOT_RUN].split()) >= 2, "a block that is not run needs a reason"


def test_few_blocks_are_not_run() -> None:
    not_run = [f"{block}: {block.marks[NOT_RUN]}" for block in BLOCKS if NOT_RUN in block.marks]
    assert len(not_run) <= MOST_NOT_RUN * len(BLOCKS), "\n".join(not_run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_code_of_the_page_is_in_blocks(page: Path) -> None:
    """Code that is only indented would not be seen here."""
    prose = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    paragraphs = re.split(r"\n\s*\n", re.sub(r"<!--.*?-->", "", prose, flags=re.DOTALL))
    indented = [each for _, each in pairwise(paragraphs) if each.startswith("    ")]
    assert indented == []


# ---- all Python at once


def as_module(block: Block) -> str:
    """Return a block as a module, with the names that it has when it runs."""
    before = block.marks.get(BEFORE, "")
    if is_program(block.text):
        return f"{before}\n{block.text}"
    names = ", ".join(sorted(mxworker.__all__))
    return f"from mxworker import {names}\nhandlers = Handlers()\npublisher: Publisher\n{before}\n{block.text}"


def test_names_in_blocks_exist(tmp_path: Path) -> None:
    """Functions that nobody calls are checked, too."""
    checked = [
        block for block in BLOCKS if block.language == "python" and not block.marks.keys() & {NOT_RUN, COPIED_FROM}
    ]
    for number, block in enumerate(checked):
        (tmp_path / f"{number}.py").write_text(as_module(block))
    settings = ["--isolated", "--select=F821,F822,F823", f"--config=builtins={json.dumps(GIVEN)}"]
    command = [sys.executable, "-m", "ruff", "check", "--output-format=json", *settings, str(tmp_path)]
    told = json.loads(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    assert [f"{checked[int(Path(each['filename']).stem)]}: {each['message']}" for each in told] == []


# ---- the checks find mistakes


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (check_shell, "mxworker run app:handlers --worker 4"),
        (check_shell, "cat letters.ndjson | mxworker dlq import orders"),
        (check_shell, "MXWORKER_WORKERS=4 mxworker ctl restart"),
        (check_shell, "sudo mxworker dlq replay orders --rate many > replayed"),
        (check_shell, "pip install 'mxworker[uvloop]'"),
        (check_shell, "make tests"),
        (check_shell, "python -m mxworker.no_such_module"),
        (check_shell, "rabbitmqctl list_queues"),
        (check_shell, "echo 'open"),
        (check_toml, "worker = 4"),
        (check_toml, '[tool.mxworker]\ndrain-timeout = "soon"'),
        (check_yaml, "args: [run, app, --no-such-option]"),
        (check_yaml, "a: 1\na: 2"),
        (check_unit, "[Service]\nExecStart=/opt/bin/mxworker run app --no-such-option"),
        (check_dockerfile, "FORM python:3.13"),
        (check_dockerfile, 'CMD ["run", "app", "--no-such-option"]'),
        (check_json, '{"id": 1,}'),
    ],
)
def test_mistake_in_a_block_is_found(check: Callable[[str], None], text: str) -> None:
    with pytest.raises((AssertionError, ValueError, yaml.YAMLError, ConfigError)):
        check(text)


@pytest.mark.parametrize(
    "text",
    [
        "handlers.consum('orders')",
        "from mxworker import Handler",
        "@handlers.consume('orders', retries=3)\ndef order(payload: dict): ...",
        "from mxworker import Handlers\n\nhandlers = Handlers()\n\n@handlers.consume('a')\ndef order(): ...",
        "await publisher.publish({}, routing_key='a.queue.that.nobody.declared')",
        "async def test_order():\n    assert 1 == 2",
    ],
)
def test_mistake_in_python_is_found(
    text: str, broker_url: Callable[[], str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with pytest.raises((AssertionError, AttributeError, ImportError, TypeError, MxWorkerError)):
        run_python(Block(PAGES[0], 1, "python", text), tmp_path, broker_url, request.getfixturevalue)
