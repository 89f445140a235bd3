"""Parse the code of a file, for tests that read the code of mxworker."""

from __future__ import annotations

import ast
import gc
from pathlib import Path


def parsed(path: Path) -> ast.Module:
    """Return the code of a file.

    The garbage collector rests meanwhile. What it ends may have a traceback formatted, for which Python 3.11 parses a
    line of code; in the middle of this parse that raises SystemError.
    """
    gc.disable()
    try:
        return ast.parse(path.read_text())
    finally:
        gc.enable()
