"""Where invoices go: one JSON file per order."""

from __future__ import annotations

import uuid
from pathlib import Path

import orjson

from handlers_example.pricing import Invoice


def write(folder: Path, invoice: Invoice) -> bool:
    """Write `invoice` as `<order id>.json`; False when that order has its invoice already, which then stays as it is.

    Blocks: call it in a thread. It survives a killed process; to survive a power cut too, os.fsync the draft first.
    """
    # A message can come twice, even to two processes at once, so the order's id is the key: a hard link makes the
    # complete file appear under its name, or fails because the name is taken. The first one wins, everywhere.
    # With a database it would be a unique key and INSERT ... ON CONFLICT DO NOTHING.
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{uuid.uuid4().hex}.draft"
    try:
        draft.write_bytes(orjson.dumps(invoice, option=orjson.OPT_INDENT_2))
        (folder / f"{invoice.order_id}.json").hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True
