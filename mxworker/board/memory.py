"""Memory that processes share, in sections: a forked process can write to one section, and only read the others.

Each section is mapped twice, for writing and for reading. Before a child runs any code of others, it gives up the
mappings for writing of all sections but its own (`keep`). It cannot make the mappings for reading writable: a section
is a file in memory that is sealed with F_SEAL_FUTURE_WRITE (Linux 5.1, fcntl(2)) once its mapping for writing exists,
and the kernel refuses mprotect(2) for mappings that are made later. No process holds a descriptor of the file. Each
section is a file of its own, since mremap(2) could stretch a mapping for writing over the rest of a common file.

Where the kernel or the container has no such seal, there is one mapping, which the child protects by mprotect(2). That
stops code that writes there by mistake, and not code that means to; `weakness` then says why. A process that may trace
the creator (ptrace(2)) can change this memory, as it can change everything else.

The mappings of all sections are one span of addresses for writing and one for reading, so a child gives them up with
two calls, whatever their number. Memory that was never touched takes no memory.

This module does not know what the sections hold.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from collections.abc import Sequence
from itertools import accumulate, pairwise

PAGE_BYTES = mmap.PAGESIZE

_F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; not in Python's fcntl before 3.14
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _F_SEAL_FUTURE_WRITE
_MFD_NOEXEC_SEAL = 0x8  # Linux 6.3; asked for there, with the sysctl vm.memfd_noexec even demanded
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_PROT_NONE = 0
_SPAN = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE

_LIBC = ctypes.CDLL(None, use_errno=True)  # loaded before any fork: a child must not need the dynamic linker's lock
_mmap = _LIBC.mmap
_mmap.restype = ctypes.c_void_p
_mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_mprotect = _LIBC.mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value


class SharedMemory:
    """The sections, counted from 0 and all zero. Make it before the first fork; it ends with its last user."""

    def __init__(self, sizes_bytes: Sequence[int], may_seal: bool = True) -> None:
        """Map sections of at least these sizes. Raises OSError when there is no room for them."""
        sizes = [-(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes_bytes]
        self._bounds = tuple(pairwise((0, *accumulate(sizes))))
        self.weakness = _why_no_seal() if may_seal else "not asked for"
        """Why a child could write where it should only read; "" where it cannot."""
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE if self.weakness else _SPAN
        self._for_writing = mmap.mmap(-1, sum(sizes), flags=flags)
        self._for_reading = self._for_writing
        if not self.weakness:
            self._for_reading = mmap.mmap(-1, sum(sizes), flags=flags)
            for section, size in enumerate(sizes):
                self._map_file(section, size)

    def writable(self, section: int) -> memoryview:
        """Return a section for writing. A child that has kept another section must not touch it."""
        start, end = self._bounds[section]
        return memoryview(self._for_writing)[start:end]

    def readable(self, section: int) -> memoryview:
        """Return a section for reading, in any process."""
        start, end = self._bounds[section]
        return memoryview(self._for_reading).toreadonly()[start:end]

    def keep(self, section: int) -> None:
        """In a child, give up writing to all sections but this one. Raises OSError."""
        start, end = self._bounds[section]
        for first, last in ((0, start), (end, self._bounds[-1][1])):
            if first < last:
                self._give_up(_address(self._for_writing) + first, last - first)

    def _give_up(self, address: int, size: int) -> None:
        if self.weakness:
            if _mprotect(address, size, mmap.PROT_READ):
                raise _os_error("mprotect")
        else:  # the addresses stay taken, or a stray write would hit what is mapped there next
            _map(address, size, _PROT_NONE, _SPAN, -1)

    def _map_file(self, section: int, size: int) -> None:
        start, _ = self._bounds[section]
        fd = _memory_file()
        try:
            os.ftruncate(fd, size)
            _map(_address(self._for_writing) + start, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, fd)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            _map(_address(self._for_reading) + start, size, mmap.PROT_READ, mmap.MAP_SHARED, fd)
        finally:
            os.close(fd)


def _why_no_seal() -> str:
    """Return why memory cannot be sealed here; "" where it can."""
    try:
        fd = _memory_file()
    except (AttributeError, OSError) as error:
        return f"memfd_create: {error}"
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        return f"F_SEAL_FUTURE_WRITE: {error}"
    finally:
        os.close(fd)
    return ""


def _memory_file() -> int:
    """Return the descriptor of a new file in memory. Raises OSError, and AttributeError where Python has no such."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("mxworker-board", flags | _MFD_NOEXEC_SEAL)
    except OSError:
        return os.memfd_create("mxworker-board", flags)


def _map(address: int, size: int, protection: int, flags: int, fd: int) -> None:
    """Replace the mapping at `address`, see mmap(2)."""
    if _mmap(address, size, protection, flags | _MAP_FIXED, fd, 0) == _MAP_FAILED:
        raise _os_error("mmap")


def _address(area: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def _os_error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
