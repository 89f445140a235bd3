"""The headers that mxworker writes into messages: every name, and what its value says. No other module spells a name.

Anybody who may publish to a queue can write the same headers, so values are read tolerantly, and nothing is granted for
them. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

ATTEMPT_HEADER = "mx-attempt"

QUEUE_HEADER = "mx-queue"
HANDLER_HEADER = "mx-handler"
ATTEMPTS_HEADER = "mx-attempts"
REASON_HEADER = "mx-reason"
ERROR_TYPE_HEADER = "mx-error-type"
ERROR_HEADER = "mx-error"
FAILED_AT_HEADER = "mx-failed-at"

KILLS_HEADER = "mx-kills"
SIGNAL_HEADER = "mx-signal"
EXIT_CODE_HEADER = "mx-exit-code"
PEAK_RSS_HEADER = "mx-peak-rss-bytes"
UPTIME_HEADER = "mx-uptime-ms"
STACK_HEADER = "mx-stack"

REPLAYS_HEADER = "mx-replays"
REPLAY_HEADER = "mx-replay"

ORIGIN_PREFIX = "mx-origin-"
ORIGIN_EXCHANGE_HEADER = f"{ORIGIN_PREFIX}exchange"
ORIGIN_ROUTING_KEY_HEADER = f"{ORIGIN_PREFIX}routing-key"
ORIGIN_EXPIRATION_HEADER = f"{ORIGIN_PREFIX}expiration"
ORIGIN_USER_ID_HEADER = f"{ORIGIN_PREFIX}user-id"


@dataclass(frozen=True, slots=True)
class OwnHeader:
    """One header. `kind` is the type of its value in AMQP's field table, `meaning` a sentence for people."""

    name: str
    kind: str
    meaning: str


OF_RETRIES = (OwnHeader(ATTEMPT_HEADER, "integer", "The number of the execution to come; 1 without the header."),)
"""On the copy of a message that is tried again, in a retry queue or in its own queue."""

OF_DEAD_LETTERS = (
    OwnHeader(QUEUE_HEADER, "text", "The queue from which the message could not be handled."),
    OwnHeader(HANDLER_HEADER, "text", "The name of the handler."),
    OwnHeader(ATTEMPTS_HEADER, "integer", "How often the handler was executed, this time included."),
    OwnHeader(REASON_HEADER, "text", "The kind of the failure in one word; see below."),
    OwnHeader(ERROR_TYPE_HEADER, "text", "The class of the exception."),
    OwnHeader(ERROR_HEADER, "text", "The text of the exception or of the `Reject`; its first 1,024 bytes."),
    OwnHeader(FAILED_AT_HEADER, "timestamp", "When it failed, in whole seconds."),
)
"""On messages in a dead-letter queue or a quarantine. Each failure replaces those of the one before."""

OF_QUARANTINE = (
    OwnHeader(KILLS_HEADER, "integer", "How many workers died while they handled the message."),
    OwnHeader(SIGNAL_HEADER, "text", "The signal that ended the last of them, such as `SIGSEGV`."),
    OwnHeader(EXIT_CODE_HEADER, "integer", "Its exit code, when no signal ended it."),
    OwnHeader(PEAK_RSS_HEADER, "integer", "The most memory that it had, in bytes."),
    OwnHeader(UPTIME_HEADER, "integer", "How long it had lived, in milliseconds."),
    OwnHeader(STACK_HEADER, "text", "Its stack when it died, if that is known; the innermost frame first."),
)
"""Beside those of a dead letter on messages in a quarantine. They are about the last worker that the message killed."""

OF_REPLAYS = (
    OwnHeader(REPLAYS_HEADER, "integer", "How often the message was replayed."),
    OwnHeader(REPLAY_HEADER, "text", "The name of the last replay, by which a letter is recognised that comes back."),
)
"""On a dead letter that `mxworker dlq replay` has put back into its queue."""

OF_ORIGIN = (
    OwnHeader(ORIGIN_EXCHANGE_HEADER, "text", "The exchange of the first publish."),
    OwnHeader(ORIGIN_ROUTING_KEY_HEADER, "text", "The routing key of the first publish."),
    OwnHeader(ORIGIN_EXPIRATION_HEADER, "text", "The property `expiration`: on a copy it would cut the delay short."),
    OwnHeader(ORIGIN_USER_ID_HEADER, "text", "The property `user_id`: RabbitMQ refuses that of another user."),
)
"""On every copy: what a copy must not keep under its own name. `origins` moves some headers of the broker as well."""
