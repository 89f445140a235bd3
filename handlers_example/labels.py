"""The label of a parcel: its number as an Interleaved 2 of 5 barcode in a PNG. Pure computation.

It is an example of code that holds the interpreter for long, such as images, PDFs or models. The barcode is ITF-14,
see https://www.gs1.org/standards/barcodes/ean-upc; for PNG see https://www.w3.org/TR/png/.
"""

from __future__ import annotations

import struct
import zlib
from hashlib import blake2b

# The five widths of each digit, in modules: two of the five are wide.
_WIDTHS = ("11331", "31113", "13113", "33111", "11313", "31311", "13311", "11133", "31131", "13131")
_START, _STOP = "1111", "311"
_QUIET_MODULES = 10  # white space on both sides, so that a scanner finds the start
_DOTS = 4  # for each module
_HEIGHT_DOTS = 240


def draw(order_id: str) -> bytes:
    """Return the label for the parcel of an order, as a PNG."""
    return _png(modules(parcel_number(order_id)))


def parcel_number(order_id: str) -> str:
    """Return the 14 digits of a parcel number, the last one a check digit. A real shop gets it from its carrier."""
    digits = f"{int.from_bytes(blake2b(order_id.encode(), digest_size=8).digest(), 'big') % 10**13:013}"
    return digits + str(check_digit(digits))


def check_digit(digits: str) -> int:
    """Return the digit that makes the weighted sum a multiple of ten (GS1 General Specifications, 7.9.1)."""
    weighted = sum(int(digit) * (3 if place % 2 == 0 else 1) for place, digit in enumerate(reversed(digits)))
    return -weighted % 10


def modules(digits: str) -> str:
    """Return a barcode as a text with '1' for each black module and '0' for each white one.

    Digits come in pairs: the widths of the first digit are bars, those of the second are the spaces between the bars.
    """
    widths = _START
    for first, second in zip(digits[::2], digits[1::2], strict=True):
        widths += "".join(bar + space for bar, space in zip(_WIDTHS[int(first)], _WIDTHS[int(second)], strict=True))
    bars = "".join(int(width) * ("0" if place % 2 else "1") for place, width in enumerate(widths + _STOP))
    quiet = _QUIET_MODULES * "0"
    return quiet + bars + quiet


def _png(bars: str) -> bytes:
    """Return a PNG of upright bars with one bit for each dot, where 1 is white."""
    width_dots = len(bars) * _DOTS
    dots = "".join(("0" if bar == "1" else "1") * _DOTS for bar in bars).ljust(-(-width_dots // 8) * 8, "1")
    row = b"\0" + int(dots, 2).to_bytes(len(dots) // 8, "big")
    header = struct.pack(">IIBBBBB", width_dots, _HEIGHT_DOTS, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * _HEIGHT_DOTS)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
