"""The facts of the running message for log handlers of the application; mxworker's own handler adds them by itself."""

from __future__ import annotations

import logging

from mxworker.system.log import facts_for_line

_NAMES = ("queue", "handler", "message_id", "correlation_id", "attempt", "messages", "message_ids", "worker")


class MessageFacts(logging.Filter):
    """Gives log records the facts of the message that the logging code handles. Add it to a handler of your own.

    A record gets the attributes `queue`, `handler`, `message_id`, `correlation_id`, `attempt` and `worker`; for a batch
    of several `messages`, their number, and `message_ids`, the first ten. An attribute is None where there is no such
    fact, as outside a handler. Attributes that a record already has stay. The filter lets all records through. Add it
    to the handler that is called by the logger: a `QueueListener` calls its handlers in another thread, which has no
    message.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the facts, and return True."""
        record.__dict__.update(dict.fromkeys(_NAMES) | dict(facts_for_line(record)) | record.__dict__)
        return True
