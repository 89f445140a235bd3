"""Bodies of a megabyte or less that claim to hold a gigabyte of zeros."""

from __future__ import annotations

import zlib
from functools import cache

import zstandard

CLAIMED_BYTES = 2**30
_PIECE_BYTES = 2**24


@cache
def gzip_bomb() -> bytes:
    """Return a gzip body of 1 MB. One piece is compressed and repeated, so the checksum at its far end is wrong."""
    compressor = zlib.compressobj(9, wbits=31)
    first, repeated = (compressor.compress(bytes(_PIECE_BYTES)) + compressor.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    return first + repeated * (CLAIMED_BYTES // _PIECE_BYTES - 1) + compressor.flush()


@cache
def zstd_bomb() -> bytes:
    """Return a zstd body of 30 kB."""
    return zstandard.ZstdCompressor().compress(bytes(CLAIMED_BYTES))
