"""Run a command with a private RabbitMQ: `python -m tests.rabbit -- COMMAND [ARGUMENT ...]`.

The command finds the broker's URL in MXWORKER_BROKER_URL. Its exit code is ours (128 + N after signal N); SIGINT and
SIGTERM are passed on to it, then the node is stopped. MXWORKER_TEST_BROKER_URL names a broker to use instead.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Sequence

from tests.rabbit.installation import RabbitMQMissing
from tests.rabbit.lent import lent_broker
from tests.rabbit.node import NodeError
from tests.rabbit.processes import DIES_WITH_PARENT

USAGE = 2
FAILED = 1
_PASSED_ON = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_FROM_KERNEL = 0x80  # SI_KERNEL, sigaction(2): the terminal sent it, to every process of the foreground at once


def main(arguments: Sequence[str]) -> int:
    """Start a broker, run the command, stop the broker, return the command's exit code."""
    command = arguments[1:] if arguments[:1] == ["--"] else arguments
    if not command:
        print("usage: python -m tests.rabbit -- COMMAND [ARGUMENT ...]", file=sys.stderr)
        return USAGE
    if shutil.which(command[0]) is None:
        print(f"there is no command '{command[0]}'", file=sys.stderr)
        return USAGE
    try:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the node is stopped
        with lent_broker() as url:
            return _run(command, {**os.environ, "MXWORKER_BROKER_URL": url})
    except (RabbitMQMissing, NodeError) as error:
        print(error, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _run(command: Sequence[str], env: dict[str, str]) -> int:
    """Run `command` to its end, passing on the signals that come meanwhile.

    They are blocked and taken one by one, so that none is lost and none interrupts us. What the terminal sent (Ctrl-C)
    has reached the command already: passing it on would make two of one.
    """
    awaited = _PASSED_ON | {signal.SIGCHLD}
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        pid = os.posix_spawnp(DIES_WITH_PARENT[0], [*DIES_WITH_PARENT, *command], env, setsigmask=blocked_before)
        while True:
            received = signal.sigwaitinfo(awaited)
            if received.si_signo == signal.SIGCHLD:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    return _exit_code(status)
            elif received.si_code != _FROM_KERNEL:
                os.kill(pid, received.si_signo)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
