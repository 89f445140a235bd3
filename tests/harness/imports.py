"""Modules that a test has written itself are imported, and gone again when it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def forgotten_imports(name: str) -> Iterator[None]:
    """Let the block import the module `name`; then forget it, with what was added to `sys.path`."""
    path = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = path
        sys.modules.pop(name, None)
