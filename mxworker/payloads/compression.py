"""Compress and decompress bodies by their content-encoding: gzip, and zstd with the extra of that name.

Codings that only others write are read too: `x-gzip`, which is gzip (RFC 9110, 8.4.1.3), and `deflate`, which is zlib's
format by the standard and raw deflate from some senders (8.4.1.2). A list of names is read when only one of them is a
compression: Spring AMQP writes `gzip, UTF-8`, and once wrote `gzip:UTF-8`.

Decompression is bounded, because anybody may have compressed the body: the output is at most 64 MiB, and above 1 MiB at
most 100 times the input. The size of a larger output is measured first, in small steps that are thrown away. So a bomb
of a gigabyte costs a megabyte and a tenth of a second.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType, ModuleType

from mxworker.config.publisher import PublisherSettings
from mxworker.errors import ConfigError, DecodeError
from mxworker.payloads.content_types import shown

MAX_OUTPUT_BYTES = 64 * 1024 * 1024
MAX_RATIO = 100
FREE_OUTPUT_BYTES = 1024 * 1024
"""Up to this output any ratio is allowed: a log with one repeated line compresses a thousandfold."""

_PLAIN = frozenset({"", "identity", "binary", "7bit", "8bit", "utf-8", "utf8", "us-ascii", "ascii"})
"""The names that mean no compression. kombu writes the character set of the body there."""
_SEPARATORS = re.compile("[,:]")
_KNOWN = "gzip, deflate, zstd and identity"
_LEVELS: Mapping[str, range] = MappingProxyType({"gzip": range(1, 10), "zstd": range(1, 20)})
# https://zlib.net/manual.html, inflateInit2: 15 bits; 16 more mean the gzip format, a negative number raw deflate
_GZIP_WINDOW_BITS = 31
_ZLIB_WINDOW_BITS = 15
_RAW_WINDOW_BITS = -15
_ZSTD_WINDOW_BYTES = 8 * 1024 * 1024  # RFC 8878, 3.1.1.1.2, asks this of every decoder; levels above 19 need more
_INPUT_STEP_BYTES = 16 * 1024
_OUTPUT_STEP_BYTES = 256 * 1024
_MAX_GZIP_MEMBERS = 4096  # each costs a decompressor; only bgzip writes many, with 64 KiB in each


@dataclass(frozen=True, slots=True)
class Compression:
    """How bodies are compressed: `encoding` is gzip with a `level` from 1 to 9, or zstd with one from 1 to 19.

    Bodies of up to `threshold_bytes` are not compressed. Raises ConfigError when a value cannot work.
    """

    encoding: str = "gzip"
    level: int = 6
    threshold_bytes: int = 1024

    def __post_init__(self) -> None:
        """Refuse values that would fail later, at a publish."""
        levels = _LEVELS.get(self.encoding)
        if levels is None:
            raise ConfigError(f"compression is gzip or zstd, not {self.encoding!r}")
        if self.level not in levels:
            raise ConfigError(f"the level of {self.encoding} is {levels[0]} to {levels[-1]}, not {self.level}")
        if self.encoding == "zstd":
            _zstandard()

    def compress(self, body: bytes) -> bytes | None:
        """Return the compressed body; None when the body should be sent as it is.

        That is so when it is small, when it would not get smaller, and when `decompress` would refuse it as a bomb.
        """
        if len(body) <= self.threshold_bytes:
            return None
        compressed = _COMPRESSORS[self.encoding](body, self.level)
        return compressed if len(compressed) < len(body) <= _output_limit_bytes(compressed) else None


def compression_of(settings: PublisherSettings) -> Compression | None:
    """Return how a publisher with these settings compresses. Raises ConfigError without the extra that it needs."""
    if settings.compression == "none":
        return None
    return Compression(settings.compression, settings.compression_level, settings.compression_threshold_bytes)


@dataclass(frozen=True, slots=True)
class Measured:
    """The content of a compressed body: its size, and `read`, which returns the content and may raise DecodeError.

    A large content is not in memory before `read` is called.
    """

    size_bytes: int
    read: Callable[[], bytes]


class UnknownCoding(DecodeError):
    """The body has an unknown coding, or several codings, and was not read."""


def decompress(body: bytes, content_encoding: str) -> bytes:
    """Return the content of `body`. Raises as `measured` does, and DecodeError."""
    return measured(body, content_encoding).read()


def measured(body: bytes, content_encoding: str) -> Measured:
    """Return the size of the content of `body`, and its reader, by the one coding that the content-encoding names.

    Raises UnknownCoding for several codings or an unknown one. Raises DecodeError when the body is broken, cut short,
    followed by something else, or above the limits. A zstd body must be a single frame.
    """
    codings = _codings(content_encoding)
    if not codings:
        return Measured(len(body), lambda: body)
    reader = _DECOMPRESSORS.get(codings[0])
    if reader is None or len(codings) > 1:
        why = "several codings, of which only one can be undone" if len(codings) > 1 else f"none of {_KNOWN}"
        raise UnknownCoding(f"the content-encoding is {shown(content_encoding)}, which is {why}")
    return reader(body, _output_limit_bytes(body))


def is_compressed(content_encoding: str) -> bool:
    """Tell whether `decompress` would decompress this encoding, rather than return or refuse the body at once."""
    codings = _codings(content_encoding)
    return len(codings) == 1 and codings[0] in _DECOMPRESSORS


def _codings(content_encoding: str) -> list[str]:
    """Return the names in a content-encoding, in lower case, without those that mean no compression."""
    names = [name.strip() for name in _SEPARATORS.split(content_encoding.lower())]
    return [name for name in names if name not in _PLAIN]


def _output_limit_bytes(compressed: bytes) -> int:
    return min(MAX_OUTPUT_BYTES, max(FREE_OUTPUT_BYTES, MAX_RATIO * len(compressed)))


def _gzip(body: bytes, level: int) -> bytes:
    return zlib.compress(body, level, _GZIP_WINDOW_BITS)


def _zstd(body: bytes, level: int) -> bytes:
    # Two threads must not use one compressor at once, and making one is quick beside compressing.
    compressed: bytes = _zstandard().ZstdCompressor(level=level).compress(body)
    return compressed


def _gunzip(body: bytes, limit_bytes: int) -> Measured:
    try:
        return _bounded(lambda: _gunzipped(body), limit_bytes)
    except zlib.error as error:
        raise DecodeError(f"the body is not gzip, as its content-encoding says: {error}") from None


def _inflate(body: bytes, limit_bytes: int) -> Measured:
    try:
        return _bounded(lambda: _inflated(body, _ZLIB_WINDOW_BITS), limit_bytes)
    except zlib.error as error:
        refusal = f"the body is not deflate, as its content-encoding says: {error}"
    try:
        return _bounded(lambda: _inflated(body, _RAW_WINDOW_BITS), limit_bytes)
    except zlib.error:
        raise DecodeError(refusal) from None


def _bounded(decompressed: Callable[[], Iterator[bytes]], limit_bytes: int) -> Measured:
    """Measure all chunks. Large content is not kept but decompressed again by `read`, so no bomb is ever in memory."""
    kept: list[bytes] = []
    size = 0
    for chunk in decompressed():
        size = _within(size + len(chunk), limit_bytes)
        if size <= FREE_OUTPUT_BYTES:
            kept.append(chunk)
        else:
            kept.clear()
    if size > FREE_OUTPUT_BYTES:
        return Measured(size, lambda: _joined(decompressed()))
    content = b"".join(kept)
    return Measured(size, lambda: content)


def _joined(chunks: Iterator[bytes]) -> bytes:
    """Join chunks without the second copy of them that `bytes.join` would make."""
    content = BytesIO()
    for chunk in chunks:
        content.write(chunk)
    return content.getvalue()


def _gunzipped(body: bytes) -> Iterator[bytes]:
    """Yield the content of all members in steps. Each step copies the unused input, so input goes in pieces too."""
    member = zlib.decompressobj(_GZIP_WINDOW_BITS)
    members = 1
    for piece in _pieces(body):
        while piece:
            if member.eof:
                member = zlib.decompressobj(_GZIP_WINDOW_BITS)
                members += 1
                if members > _MAX_GZIP_MEMBERS:
                    raise DecodeError(f"the body has more than {_MAX_GZIP_MEMBERS} gzip members")
            yield member.decompress(piece, _OUTPUT_STEP_BYTES)
            piece = member.unused_data if member.eof else member.unconsumed_tail
    yield from _last_output(member)
    if not member.eof:
        raise DecodeError("the body is gzip, cut short")


def _inflated(body: bytes, window_bits: int) -> Iterator[bytes]:
    """Yield the content of one stream in steps."""
    stream = zlib.decompressobj(window_bits)
    for piece in _pieces(body):
        while piece:
            if stream.eof:
                raise DecodeError("the body is deflate, followed by something else")
            yield stream.decompress(piece, _OUTPUT_STEP_BYTES)
            piece = stream.unused_data if stream.eof else stream.unconsumed_tail
    yield from _last_output(stream)
    if not stream.eof:
        raise DecodeError("the body is deflate, cut short")


def _pieces(body: bytes) -> Iterator[bytes]:
    return (body[start : start + _INPUT_STEP_BYTES] for start in range(0, len(body), _INPUT_STEP_BYTES))


def _last_output(stream: zlib._Decompress) -> Iterator[bytes]:
    """Yield the output that is left after all input."""
    while chunk := stream.decompress(b"", _OUTPUT_STEP_BYTES):
        yield chunk


def _unzstd(body: bytes, limit_bytes: int) -> Measured:
    try:
        zstandard = _zstandard()
    except ConfigError as error:  # the operator's fault, but the delivery must be settled as a dead letter
        raise DecodeError(f"the body cannot be read, {error}") from error
    decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    try:
        # Only a stream can be read in steps. Only a decompressobj, in `_zstd_frame`, tells whether the end was reached.
        with decompressor.stream_reader(body) as stream:
            size = 0
            while chunk := stream.read(_OUTPUT_STEP_BYTES):
                size = _within(size + len(chunk), limit_bytes)
    except zstandard.ZstdError as error:
        raise _not_zstd(error) from None
    return Measured(size, lambda: _zstd_frame(body))


def _zstd_frame(body: bytes) -> bytes:
    zstandard = _zstandard()
    frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
    try:
        content: bytes = frame.decompress(body)
    except zstandard.ZstdError as error:
        raise _not_zstd(error) from None
    if not frame.eof:
        raise DecodeError("the body is zstd, cut short")
    if frame.unused_data:
        raise DecodeError("the body is zstd, followed by something else")
    return content


def _not_zstd(error: Exception) -> DecodeError:
    return DecodeError(f"the body is not zstd, as its content-encoding says: {error}")


def _within(size: int, limit_bytes: int) -> int:
    if size > limit_bytes:
        raise DecodeError(f"the body decompresses to more than {limit_bytes} bytes")
    return size


def _zstandard() -> ModuleType:
    """Import the package of the extra `zstd` on first use: it takes 10 ms, and most applications do not need it."""
    try:
        import zstandard
    except ImportError:
        raise ConfigError("zstd is not installed: pip install 'mxworker[zstd]'") from None
    return zstandard


_COMPRESSORS: Mapping[str, Callable[[bytes, int], bytes]] = MappingProxyType({"gzip": _gzip, "zstd": _zstd})
_DECOMPRESSORS: Mapping[str, Callable[[bytes, int], Measured]] = MappingProxyType(
    {"gzip": _gunzip, "x-gzip": _gunzip, "deflate": _inflate, "zstd": _unzstd}
)
