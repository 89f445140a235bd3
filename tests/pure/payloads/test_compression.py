"""What was compressed comes back; what was made to hurt costs an error and nothing else."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import textwrap
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from mxworker.errors import ConfigError, DecodeError
from mxworker.payloads import compression
from mxworker.payloads.compression import Compression, UnknownCoding, decompress, is_compressed
from tests.harness.bombs import gzip_bomb, zstd_bomb
from tests.harness.timing import timed

MIB = 1024 * 1024
ENCODINGS = ("gzip", "zstd")
RSS_DELTA_BYTES = 80_000_000


def noise(size: int) -> bytes:
    return random.Random(7).randbytes(size)


def zeros(size: int) -> bytes:
    """Return so many zeros as gzip."""
    return gzip.compress(bytes(size))


def sizeless_zstd(content: bytes) -> bytes:
    """Return a zstd frame whose header does not say how large the content is."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(content)


def refusal(body: bytes, encoding: str) -> str:
    with pytest.raises(DecodeError) as caught:
        decompress(body, encoding)
    return str(caught.value)


# ---- compressing


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(body=st.binary(max_size=3000) | st.binary(min_size=1, max_size=20).map(lambda unit: unit * 500))
@settings(deadline=None)
def test_body_survives_the_way_there_and_back(encoding: str, body: bytes) -> None:
    compressed = Compression(encoding, threshold_bytes=0).compress(body)
    if compressed is not None:
        assert len(compressed) < len(body)
        assert decompress(compressed, encoding) == body


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1, 20 * MIB])
def test_large_body_survives_the_way_there_and_back(encoding: str, size: int) -> None:
    body = noise(size // 2 + 1).hex().encode()[:size]
    compressed = Compression(encoding, level=1).compress(body) or pytest.fail("it did not get smaller")
    assert decompress(compressed, encoding) == body


def test_body_of_the_threshold_is_left_as_it_is() -> None:
    assert Compression().compress(bytes(1024)) is None
    assert Compression().compress(bytes(1025)) is not None


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_body_that_does_not_get_smaller_is_left_as_it_is(encoding: str) -> None:
    assert Compression(encoding).compress(noise(5000)) is None


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("body", [bytes(2 * MIB), noise(32 * MIB + 1).hex().encode()], ids=["ratio", "size"])
def test_body_that_would_be_taken_for_a_bomb_is_left_as_it_is(encoding: str, body: bytes) -> None:
    assert Compression(encoding, level=1).compress(body) is None


def test_equal_bodies_compress_to_equal_bytes() -> None:
    """A time of day in the gzip header would make them differ."""
    assert (Compression().compress(bytes(5000)) or b"")[4:8] == b"\x00" * 4


@pytest.mark.parametrize(
    ("encoding", "level", "why"),
    [
        ("deflate", 6, "compression is gzip or zstd, not 'deflate'"),
        ("gzip", 0, "the level of gzip is 1 to 9, not 0"),
        ("gzip", 10, "the level of gzip is 1 to 9, not 10"),
        ("zstd", 20, "the level of zstd is 1 to 19, not 20"),
    ],
)
def test_compression_that_cannot_work_is_refused(encoding: str, level: int, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Compression(encoding, level)
    assert str(caught.value) == why


def test_missing_zstd_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    body = Compression("zstd").compress(bytes(5000)) or b""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r"pip install 'mxworker\[zstd\]'"):
        Compression("zstd")
    assert "pip install 'mxworker[zstd]'" in refusal(body, "zstd")


# ---- decompressing


@pytest.mark.parametrize("encoding", ["", "identity", "binary", "utf-8", "UTF-8", "us-ascii", " Identity "])
def test_encoding_that_compresses_nothing_leaves_the_body(encoding: str) -> None:
    body = noise(10)
    assert decompress(body, encoding) is body


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", " gzip "])
def test_name_of_the_encoding_is_case_insensitive(encoding: str) -> None:
    assert decompress(gzip.compress(b"body"), encoding) == b"body"


def test_only_what_can_be_decompressed_counts_as_compressed() -> None:
    assert all(map(is_compressed, ("gzip", " GZIP", "zstd")))
    assert not any(map(is_compressed, ("", "identity", "utf-8", "br", "gzip, gzip")))


@pytest.mark.parametrize("encoding", ["br", "zlib", "gzip;q=1", "compress", "x" * 255, "br, identity"])
def test_unknown_codings_are_refused_and_named(encoding: str) -> None:
    text = refusal(gzip.compress(b"body"), encoding)
    assert text.startswith(
        f"the content-encoding is '{encoding[:2]}" if encoding != "\n" else "the content-encoding is '"
    )
    assert "none of gzip, deflate, zstd and identity" in text
    assert len(text) < 150
    with pytest.raises(UnknownCoding):
        decompress(b"", encoding)


@pytest.mark.parametrize("encoding", ["gzip, gzip", "gzip,deflate", "br, gzip", "identity, gzip, utf-8, x-gzip"])
def test_bodies_in_several_codings_are_refused(encoding: str) -> None:
    assert "several codings, of which only one can be undone" in refusal(gzip.compress(b"body"), encoding)
    with pytest.raises(UnknownCoding):
        decompress(b"", encoding)


@pytest.mark.parametrize(
    "encoding",
    ["x-gzip", " X-GZip ", "gzip, identity", "identity,gzip", "gzip, UTF-8", "gzip:UTF-8", "gzip,", ", gzip"],
)
def test_gzip_by_other_clients_is_read(encoding: str) -> None:
    assert decompress(gzip.compress(b"body"), encoding) == b"body"
    assert is_compressed(encoding)


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(body) + compressor.flush()


@pytest.mark.parametrize("encoding", ["deflate", "Deflate", "deflate, identity"])
@pytest.mark.parametrize("compress", [zlib.compress, raw_deflate])
def test_deflate_is_read_with_and_without_the_header_of_zlib(encoding: str, compress: Callable[[bytes], bytes]) -> None:
    for body in (b"", b"body", noise(300_000), noise(MIB).hex().encode()):
        assert decompress(compress(body), encoding) == body


@given(body=st.binary(max_size=300))
def test_any_raw_deflate_is_read(body: bytes) -> None:
    assert decompress(raw_deflate(body), "deflate") == body


def test_several_gzip_members_are_one_body() -> None:
    body = gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")
    assert decompress(body, "gzip") == b"one two"
    halves = gzip.compress(noise(MIB)) + gzip.compress(noise(MIB))
    assert decompress(halves, "gzip") == noise(MIB) * 2


def broken_bodies() -> dict[str, tuple[str, bytes]]:
    whole = gzip.compress(noise(100_000))
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(noise(100_000))
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(noise(300_000))
    return {
        "gzip: empty": ("gzip", b""),
        "gzip: cut short": ("gzip", whole[:-1]),
        "gzip: cut in the middle": ("gzip", whole[: len(whole) // 2]),
        "gzip: second member cut short": ("gzip", whole + whole[:-1]),
        "gzip: cut in a second header": ("gzip", whole + b"\x1f\x8b"),
        "gzip: followed by something": ("gzip", whole + b"S3cr3t"),
        "gzip: followed by zeros": ("gzip", whole + bytes(100)),
        "gzip: bad checksum": ("gzip", whole[:-8] + bytes(4) + whole[-4:]),
        "gzip: bad length": ("gzip", whole[:-4] + bytes(4)),
        "gzip: is zlib": ("gzip", zlib.compress(b"body")),
        "gzip: is text": ("gzip", b"S3cr3t" * 10),
        "deflate: empty": ("deflate", b""),
        "deflate: cut short": ("deflate", zlib.compress(noise(100_000))[:-1]),
        "deflate: raw, cut short": ("deflate", raw_deflate(noise(100_000))[:-1]),
        "deflate: followed by something": ("deflate", zlib.compress(b"body") + b"S3cr3t"),
        "deflate: raw, followed by something": ("deflate", raw_deflate(b"body") + b"S3cr3t"),
        "deflate: bad checksum": ("deflate", zlib.compress(b"body")[:-4] + bytes(4)),
        "deflate: is gzip": ("deflate", whole),
        "deflate: is text": ("deflate", b"S3cr3t" * 10),
        "zstd: empty": ("zstd", b""),
        "zstd: cut short": ("zstd", frame[:-1]),
        "zstd: cut in the middle": ("zstd", frame[: len(frame) // 2]),
        "zstd: without a size, cut at a block": ("zstd", sizeless[: 128 * 1024 + 9]),
        "zstd: followed by something": ("zstd", frame + b"S3cr3t"),
        "zstd: bad checksum": ("zstd", frame[:-4] + bytes(4)),
        "zstd: is text": ("zstd", b"S3cr3t" * 10),
        "zstd: of a huge window": ("zstd", b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00"),
    }


@pytest.mark.parametrize("kind", broken_bodies())
def test_broken_bodies_are_refused_without_being_shown(kind: str) -> None:
    text = refusal(broken_bodies()[kind][1], broken_bodies()[kind][0])
    assert "S3cr3t" not in text
    assert len(text) < 150


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(body=st.binary(max_size=300), data=st.data())
@settings(max_examples=200, deadline=None)
def test_damaged_bodies_decompress_or_are_refused(encoding: str, body: bytes, data: st.DataObject) -> None:
    damaged = bytearray(compression._COMPRESSORS[encoding](body, 6))
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        decompress(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]), encoding)
    except DecodeError:
        pass


# ---- limits


@pytest.mark.parametrize(
    ("body", "encoding", "limit"),
    [
        (gzip_bomb(), "gzip", 64 * MIB),
        (zeros(2 * MIB), "gzip", MIB),
        (zlib.compress(bytes(80 * MIB)), "deflate", 100 * len(zlib.compress(bytes(80 * MIB)))),
        (raw_deflate(bytes(2 * MIB)), "deflate", MIB),
        (zstd_bomb(), "zstd", 100 * len(zstd_bomb())),
        (sizeless_zstd(bytes(2 * MIB)), "zstd", MIB),
        (zeros(MIB) + zeros(1), "gzip", MIB),
        (gzip.compress(noise(65 * MIB), 1), "gzip", 64 * MIB),
    ],
    ids=[
        "gzip",
        "small gzip",
        "deflate",
        "small raw deflate",
        "zstd",
        "small zstd",
        "two members",
        "no bomb, but large",
    ],
)
def test_bombs_are_refused_in_no_time_and_no_memory(body: bytes, encoding: str, limit: int) -> None:
    tracemalloc.start()
    try:
        assert refusal(body, encoding) == f"the body decompresses to more than {limit} bytes"
        assert tracemalloc.get_traced_memory()[1] < 3 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_ratio_is_taken_up_to_a_mebibyte(encoding: str) -> None:
    body = compression._COMPRESSORS[encoding](bytes(MIB), 6)
    assert decompress(body, encoding) == bytes(MIB)


def test_gzip_of_countless_members_is_refused_in_no_time() -> None:
    body = gzip.compress(b"") * 50_000
    text, took_s = timed(lambda: refusal(body, "gzip"))
    assert text == "the body has more than 4096 gzip members"
    assert took_s < 0.2


def test_gzip_of_gzip_is_gzip() -> None:
    """One encoding, one layer: what is inside is the handler's to refuse."""
    assert decompress(gzip.compress(gzip.compress(b"{}")), "gzip")[:2] == b"\x1f\x8b"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_bombs_cost_the_process_no_memory(encoding: str) -> None:
    """Measured in a process of its own, for the C libraries have memory that tracemalloc does not see."""
    source = f"""
        import resource, sys
        from mxworker.payloads.compression import decompress
        from mxworker.errors import DecodeError
        body = sys.stdin.buffer.read()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(3):
            try:
                decompress(body, "{encoding}")
            except DecodeError:
                pass
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """
    body = gzip_bomb() if encoding == "gzip" else zstd_bomb()
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], input=body, capture_output=True, check=True, timeout=60
    )
    assert int(run.stdout) < RSS_DELTA_BYTES
