"""A signal that reaches a forked child before it has shed our handlers is the child's alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, threading

os.register_at_fork(after_in_child=lambda: os.kill(os.getpid(), signal.SIGTERM))  # runs before the hook of ours

from mxworker.system.child import do_nothing
from mxworker.system.forks import Forks

read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
signal.signal(signal.SIGTERM, do_nothing)
signal.set_wakeup_fd(write_fd)
Forks("worker 1")


def fork():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if {in_thread}:
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
else:
    fork()
try:
    print("told", os.read(read_fd, 1))
except BlockingIOError:
    print("told nothing")
os.kill(os.getpid(), signal.SIGTERM)
print("told", list(os.read(read_fd, 1)), [int(signum) for signum in signal.pthread_sigmask(signal.SIG_BLOCK, [])])
"""


@pytest.mark.parametrize("in_thread", [False, True])
def test_signal_right_after_a_fork_ends_the_child_and_does_not_reach_our_pipe(in_thread: bool) -> None:
    program = PROGRAM.format(in_thread=in_thread)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout.splitlines() == ["-15", "told nothing", "told [15] []"], run.stderr
