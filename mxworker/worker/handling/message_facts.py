"""The facts of the message that the calling code handles, for the application's log lines.

A handler's task has a context variable for the publishes that it does not await, and the tasks and threads that it
makes inherit it. The deliveries are read from there only when a line is logged, so messages without lines cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from mxworker.amqp.publishing.unawaited import unawaited


def message_facts() -> Mapping[str, object]:
    """Return the facts of the running delivery or batch; nothing outside a handler, and after it has returned."""
    running = unawaited.get()
    return {} if running is None else running.facts
