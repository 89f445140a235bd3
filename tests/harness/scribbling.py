"""What code in a worker can do to memory and descriptors: write to all that can be written. Imports nothing of ours."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

PAGE = mmap.PAGESIZE
MEMORY = ("/dev/zero", "/memfd:")  # as proc(5) names shared memory that belongs to no file
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
LIBC.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
LIBC.mremap.restype = ctypes.c_void_p
READ_WRITE = mmap.PROT_READ | mmap.PROT_WRITE


def ones(size: int) -> bytes:
    """Return 0xFF, so often."""
    return b"\xff" * size


FILLS: dict[str, Callable[[int], bytes]] = {"ones": ones, "random": os.urandom, "zeros": bytes}


def scribble(
    fill: Callable[[int], bytes],
    seconds: float,
    protects_back: bool = True,
    descriptors: bool = True,
    is_spared: Callable[[int], bool] = lambda address: False,
) -> int:
    """Write to all shared memory and descriptors for so long; return how many bytes of memory it could write to.

    `protects_back` says whether memory that can only be read is made writable first, if the kernel lets it. A forked
    child of a test runner must leave the `descriptors` alone, which are the runner's, and its memory, which is spared.
    """
    most = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        written = 0
        for start, last, permissions in shared_mappings():
            if is_spared(start):
                continue
            if permissions[1] != "w" and not (protects_back and make_writable(start, last)):
                continue
            for at in range(start, last, 256 * PAGE):
                size = min(256 * PAGE, last - at)
                ctypes.memmove(at, fill(size), size)
                written += size
        if descriptors:
            scribble_descriptors(fill)
        most = max(most, written)
    return most


def shared_mappings() -> list[tuple[int, int, str]]:
    """Return start, end and permissions of the memory that is shared with other processes.

    Files are left out, since a test that runs as root would damage those of the system (glibc maps one of its own), and
    so are the rings of io_uring(7), since libuv ends a process whose rings are damaged.
    """
    found = []
    with Path("/proc/self/maps").open() as maps:
        for line in maps:
            addresses, permissions, _, _, _, path = [*line.split(maxsplit=5), ""][:6]
            if permissions[3] == "s" and path.startswith(MEMORY):
                start, last = (int(part, 16) for part in addresses.split("-"))
                found.append((start, last, permissions))
    return found


def make_writable(start: int, last: int) -> bool:
    """Try to make memory writable that can only be read: in place, by stretching, and by way of a new descriptor."""
    if LIBC.mprotect(start, last - start, READ_WRITE) == 0:
        return True
    copied = LIBC.mremap(start, 0, last - start, 1)
    if copied not in (None, ctypes.c_void_p(-1).value) and LIBC.mprotect(copied, last - start, READ_WRITE) == 0:
        return True
    try:
        fd = os.open(f"/proc/self/map_files/{start:x}-{last:x}", os.O_RDWR)
    except OSError:
        return False
    try:
        os.ftruncate(fd, 0)
        return True
    except OSError:
        pass
    try:
        mmap.mmap(fd, last - start)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)


def scribble_descriptors(fill: Callable[[int], bytes]) -> None:
    """Write to every descriptor but the standard streams, at the start and at the position, and cut what can be cut."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names alone
        fd = int(name)
        if fd <= 2:
            continue
        for act in (
            lambda fd: os.pwrite(fd, fill(100), 0),
            lambda fd: os.write(fd, fill(8)),
            lambda fd: os.ftruncate(fd, 0),
        ):
            try:
                os.set_blocking(fd, False)
                act(fd)
            except OSError:
                pass
