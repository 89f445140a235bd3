"""Memory that is shared in sections: a child can write to its own, and by no means to another one."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import fcntl
import gc
import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mxworker.board import memory as board_memory
from mxworker.board.lifecycle import WorkerState
from mxworker.board.memory import PAGE_BYTES, SharedMemory
from mxworker.board.page import Board
from tests.harness.scribbling import FILLS, LIBC, READ_WRITE, scribble, shared_mappings

SIZES = [PAGE_BYTES, 3 * PAGE_BYTES, 2 * PAGE_BYTES + 1, 100]
OWN = 2


def ending_of(child: Callable[[], object]) -> int:
    """Return how a forked process ends that calls this: 0, or minus a signal, or an errno, or 255."""
    pid = os.fork()
    if pid == 0:
        code = 255
        try:
            faulthandler.disable()  # its end by a signal is what is asked for
            child()
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(params=["sealed", "protected"])
def memory(request: pytest.FixtureRequest) -> SharedMemory:
    made = SharedMemory(SIZES, may_seal=request.param == "sealed")
    assert (made.weakness == "") == (request.param == "sealed")
    return made


def others(memory: SharedMemory) -> list[bytes]:
    return [bytes(memory.readable(section)) for section in range(len(SIZES)) if section != OWN]


def outside(memory: SharedMemory) -> Callable[[int], bool]:
    """Return whether an address is not in the memory, so that other shared memory of this process is left alone."""
    starts = [board_memory._address(area) for area in (memory._for_writing, memory._for_reading)]
    size = len(memory._for_writing)
    return lambda address: not any(start <= address < start + size for start in starts)


def address_of(view: memoryview) -> int:
    """Return where a view is, also one that can only be read."""
    buffer = (ctypes.c_void_p * 16)()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), buffer, 0)
    address = buffer[0]
    ctypes.pythonapi.PyBuffer_Release(buffer)
    assert address is not None
    return address


def test_what_one_process_writes_all_read_and_it_is_zero_before(memory: SharedMemory) -> None:
    assert all(not any(memory.readable(section)) for section in range(len(SIZES)))

    def child() -> None:
        memory.keep(OWN)
        assert memory.readable(0)[5] == 7
        memory.writable(OWN)[-1] = 9
        assert memory.readable(OWN)[-1] == 9

    memory.writable(0)[5] = 7
    assert ending_of(child) == 0
    assert memory.readable(OWN)[-1] == memory.writable(OWN)[-1] == 9


def test_sections_lie_apart(memory: SharedMemory) -> None:
    for section in range(len(SIZES)):
        memory.writable(section)[:] = bytes([section + 1]) * len(memory.writable(section))
    for section, size in enumerate(SIZES):
        assert len(memory.readable(section)) >= size
        assert set(memory.readable(section)) == {section + 1}


@pytest.mark.parametrize("section", [0, 1, 3])
def test_child_that_writes_to_another_section_dies_of_it(memory: SharedMemory, section: int) -> None:
    def by_the_parents_view() -> None:
        view = memory.writable(section)
        memory.keep(OWN)
        view[3] = 1

    def by_its_address() -> None:
        memory.keep(OWN)
        ctypes.memset(address_of(memory.readable(section)), 1, 1)

    for child in (by_the_parents_view, by_its_address):
        assert ending_of(child) == -signal.SIGSEGV
    assert not any(memory.writable(section))


def test_code_of_ours_that_writes_to_another_section_is_told_so(memory: SharedMemory) -> None:
    with pytest.raises(TypeError, match="read-only"):
        memory.readable(0)[0] = 1


@pytest.mark.parametrize("fill", FILLS)
def test_child_that_writes_to_all_it_can_reach_changes_its_own_section_alone(fill: str) -> None:
    memory = SharedMemory(SIZES)
    for section in range(len(SIZES)):
        memory.writable(section)[:] = bytes([section + 1]) * len(memory.writable(section))
    before = others(memory)

    def child() -> None:
        memory.keep(OWN)
        scribble(FILLS[fill], 0.2, descriptors=False, is_spared=outside(memory))

    assert ending_of(child) == 0
    assert others(memory) == before
    assert bytes(memory.readable(OWN)) != bytes([OWN + 1]) * len(memory.readable(OWN)), "it could write"


@pytest.mark.parametrize("fill", FILLS)
def test_child_without_seals_that_writes_to_all_that_is_writable_changes_its_own_section_alone(fill: str) -> None:
    memory = SharedMemory(SIZES, may_seal=False)
    for section in range(len(SIZES)):
        memory.writable(section)[:] = bytes([section + 1]) * len(memory.writable(section))
    before = others(memory)

    def child() -> None:
        memory.keep(OWN)
        scribble(FILLS[fill], 0.2, protects_back=False, descriptors=False, is_spared=outside(memory))

    assert ending_of(child) == 0
    assert others(memory) == before


def test_what_a_child_only_reads_it_cannot_make_writable() -> None:
    memory = SharedMemory(SIZES)

    def child() -> None:
        address = address_of(memory.readable(1))
        memory.keep(OWN)
        if LIBC.mprotect(address, PAGE_BYTES, READ_WRITE):
            raise OSError(ctypes.get_errno(), "mprotect")

    assert ending_of(child) == errno.EACCES


def test_own_section_cannot_be_stretched_over_the_next_one() -> None:
    memory = SharedMemory(SIZES)

    def child() -> None:
        memory.keep(OWN)
        size = len(memory.writable(OWN))
        stretched = LIBC.mremap(address_of(memory.writable(OWN)), 0, size + PAGE_BYTES, 1)
        assert stretched != ctypes.c_void_p(-1).value
        ctypes.memset(stretched, 1, size)
        ctypes.memset(stretched + size, 1, PAGE_BYTES)

    assert ending_of(child) == -signal.SIGBUS, "there is nothing behind it"
    assert not any(memory.readable(3))


def test_nobody_holds_a_descriptor_of_it_and_a_child_has_one_mapping_to_write_to() -> None:
    memory = SharedMemory(SIZES)
    assert not [link for link in map(os.readlink, descriptors()) if "mxworker-board" in link]

    def child() -> None:
        memory.keep(OWN)
        is_outside = outside(memory)
        ours = [permissions for start, _, permissions in shared_mappings() if not is_outside(start)]
        assert sorted(ours) == ["r--s"] * len(SIZES) + ["rw-s"]

    assert ending_of(child) == 0


def descriptors() -> list[str]:
    found = list(map(str, Path("/proc/self/fd").iterdir()))
    return [path for path in found if os.path.lexists(path)]


def test_memory_cannot_be_cut_by_a_child_that_finds_a_way_to_a_descriptor() -> None:
    memory = SharedMemory(SIZES)

    def child() -> None:
        memory.keep(OWN)
        is_outside = outside(memory)
        for start, last, _ in shared_mappings():
            if is_outside(start):
                continue
            fd = os.open(f"/proc/self/map_files/{start:x}-{last:x}", os.O_RDWR)
            for act in (lambda fd: os.ftruncate(fd, 0), lambda fd: os.pwrite(fd, b"x", 0), lambda fd: mmap.mmap(fd, 1)):
                with pytest.raises(PermissionError):
                    act(fd)

    if os.geteuid() != 0:
        pytest.skip("only root gets at a descriptor of a mapping (proc(5), map_files)")
    assert ending_of(child) == 0


@pytest.mark.parametrize("lacks", ["memfd_create", "F_SEAL_FUTURE_WRITE"])
def test_where_the_kernel_lacks_it_memory_is_protected_and_the_reason_told(
    lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks == "memfd_create":
        monkeypatch.delattr(os, "memfd_create")
    else:
        monkeypatch.setattr(board_memory, "_SEALS", 1 << 20)  # as a kernel before 5.1 sees one that it does not know
    memory = SharedMemory(SIZES)
    assert memory.weakness.startswith(lacks)
    assert ending_of(lambda: (memory.keep(OWN), memory.writable(0).__setitem__(0, 1))) == -signal.SIGSEGV


def test_memory_is_unmapped_with_its_last_user() -> None:
    def mappings() -> int:
        return Path("/proc/self/maps").read_text().count("mxworker-board")

    gc.collect()
    before = mappings()
    memory = SharedMemory(SIZES)
    view = memory.readable(1)
    assert mappings() > before
    del memory
    assert view[0] == 0, "still in use"
    del view
    assert mappings() == before


def test_seal_is_the_kernels() -> None:
    assert getattr(fcntl, "F_SEAL_FUTURE_WRITE", 0x10) == board_memory._F_SEAL_FUTURE_WRITE


def test_observer_can_write_its_heartbeat_and_nothing_else() -> None:
    board = Board(3)
    board.status.write(b"running", 1)

    def child() -> None:
        own = board.of_observer()
        own.beat_as_observer(77)
        status = own.status.read()
        assert status is not None
        assert status.text == b"running"
        for write in (
            lambda: own.status.write(b"forged", 2),
            lambda: own.directives.pause_all(),
            lambda: own.slot(1).write_state(WorkerState.READY),
        ):
            with pytest.raises(TypeError, match="read-only"):
                write()

    assert ending_of(child) == 0
    assert board.observer_deadline_ns == 77


def test_worker_cannot_write_the_heartbeat_of_the_observer() -> None:
    board = Board(3)

    def child() -> None:
        with pytest.raises(TypeError, match="read-only"):
            board.of_worker(1).beat_as_observer(2**63)

    assert ending_of(child) == 0
