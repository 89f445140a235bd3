"""README.md shows what `mxworker dev` shows to somebody who copies the first program and presses a key."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.harness.pages import TESTED_BY, blocks
from tests.harness.repository import REPOSITORY
from tests.harness.scales import FULL_ONLY
from tests.harness.shell import Shell
from tests.harness.shown import sessions, shows

README = REPOSITORY / "README.md"


@FULL_ONLY
def test_first_program_shows_what_the_readme_says(tmp_path: Path) -> None:
    program, console = (block for block in blocks(README) if block.language == "python" or TESTED_BY in block.marks)
    ((command, shown),) = sessions(console.text)
    (tmp_path / "app.py").write_text(program.text)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with Shell(tmp_path, {**os.environ, "PATH": path, "COLUMNS": "200"}) as shell:
        shell.run(*command.split())
        shell.wait_for("Keys: p publishes a sample")
        shell.wait_until_keys_count()
        shell.type("p")
        shell.wait_for("is acked")
        shell.type("q")
        shell.wait_for("stopped with exit code 0: 1 acked")
        assert shows(shown, shell.screen())
