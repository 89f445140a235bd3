"""Files that are written once, whatever comes twice."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_once(path: Path, content: bytes) -> bool:
    """Write a file; False when it is there already, which then stays as it is.

    Blocks: call it in a `def` handler or a thread. It survives a killed process; to survive a power cut too, os.fsync
    the draft first.
    """
    # A message can come twice, even to two processes at once, so the file's name is the key: a hard link makes the
    # complete file appear under its name, or fails because the name is taken. The first one wins, everywhere.
    draft = path.with_name(f".{uuid.uuid4().hex}.draft")
    try:
        draft.write_bytes(content)
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
