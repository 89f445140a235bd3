"""Files that are written only once, even if a message comes twice."""

from __future__ import annotations

import uuid
from pathlib import Path


def write_once(path: Path, content: bytes) -> bool:
    """Write a file; return False when it exists already, and leave it unchanged then.

    This blocks, so call it in a `def` handler or a thread. A killed process leaves no partial file; for a power cut
    too, os.fsync the draft first.
    """
    # A message can come twice, even to two processes at once, so the file name is the key. A hard link makes the
    # complete file appear under its name, or fails because the name is taken. The first writer wins.
    draft = path.with_name(f".{uuid.uuid4().hex}.draft")
    try:
        draft.write_bytes(content)
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
