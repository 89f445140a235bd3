"""The asyncio tasks of a worker as Python sees them from outside, without the help of the worker.

From Python 3.14 on, asyncio reads them from the memory of another process, as `python -m asyncio pstree PID` does. So
they are seen while the worker's loop is stuck, even in code that is not Python. The kernel lets a parent do that
(ptrace(2), "Ptrace access mode checking"), so the master does it itself.
"""

from __future__ import annotations

import importlib
import logging

from mxworker.system.log_events import log_event
from mxworker.system.printable import foreign

_LOG = logging.getLogger("mxworker.master")

MOST_IN_FLIGHT = 1000
"""A worker with more deliveries in flight is not looked at, since supervision waits for the look."""
MOST_LINES = 200


def await_trees(pid: int) -> list[str]:
    """Return lines that show which task of a process waits for which; none where that cannot be seen."""
    try:
        tools = importlib.import_module("asyncio.tools")
        trees = tools.build_async_tree(tools.get_all_awaited_by(pid))
        return [foreign(line) for tree in trees for line in tree][:MOST_LINES]
    except Exception as error:  # code of others that reads the memory of a process that is out of order
        _LOG.debug("process %d cannot be seen from outside: %r", pid, error)
        return []


def tell_tasks(slot: int, pid: int, in_flight: int) -> None:
    """Log the tasks of a worker that hangs, if they can be seen."""
    lines = await_trees(pid) if in_flight <= MOST_IN_FLIGHT else []
    if lines:
        text = "\n".join(lines)
        facts = log_event("worker_tasks", worker=slot, worker_pid=pid, tasks=text)
        _LOG.warning("worker %d (process %d) hangs; its tasks, seen from outside:\n%s", slot, pid, text, extra=facts)
