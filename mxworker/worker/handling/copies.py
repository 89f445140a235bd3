"""Copies of deliveries: those that are tried again later, and those that are kept with the facts of their failure.

A copy is published and confirmed before its original is acked. See `api.copying` for what it keeps.

No copy can be made of a message whose headers cannot be split, or are more than a copy may have. Such a message is a
dead letter after its first failure, since its attempts cannot be counted either (see `api.attempts`).

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mxworker.api.copying import copy_of
from mxworker.api.delivery import Delivery
from mxworker.api.message import Content, Copy, Encoder, Message
from mxworker.board.suspects import Suspect
from mxworker.system.exit_status import in_words
from mxworker.system.printable import head, printable
from mxworker.wire.field_table import SHORT_STRING_BYTES, Timestamp
from mxworker.wire.own_headers import (
    ATTEMPT_HEADER,
    ATTEMPTS_HEADER,
    ERROR_HEADER,
    ERROR_TYPE_HEADER,
    EXIT_CODE_HEADER,
    FAILED_AT_HEADER,
    HANDLER_HEADER,
    KILLS_HEADER,
    PEAK_RSS_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    SIGNAL_HEADER,
    STACK_HEADER,
    UPTIME_HEADER,
)

ERROR_TEXT_BYTES = 1024
STACK_TEXT_BYTES = 2048


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts about the failure of a dead letter.

    `attempt` is the number of the last execution, `kind` the kind of its failure in one word, and `at_s` its time in
    whole seconds since 1970. Texts may have any length and any characters; see `headers`.
    """

    queue: str
    handler: str
    attempt: int
    kind: str
    error_type: str
    error_text: str
    at_s: int

    def headers(self) -> dict[str, Any]:
        """Return the headers of a dead letter. Texts are printable, and cut at 255 bytes, the error at 1024.

        The headers have no `mx-attempt`: a dead letter that an operator publishes to its queue again is tried as often
        as a new message. It keeps these facts until it fails again.
        """
        return {
            QUEUE_HEADER: _shown(self.queue, SHORT_STRING_BYTES),
            HANDLER_HEADER: _shown(self.handler, SHORT_STRING_BYTES),
            ATTEMPTS_HEADER: self.attempt,
            REASON_HEADER: _shown(self.kind, SHORT_STRING_BYTES),
            ERROR_TYPE_HEADER: _shown(self.error_type, SHORT_STRING_BYTES),
            ERROR_HEADER: _shown(self.error_text, ERROR_TEXT_BYTES),
            FAILED_AT_HEADER: Timestamp(self.at_s),
        }


@dataclass(frozen=True, slots=True)
class KillFacts:
    """The facts about a message in quarantine: the death of the last worker in which it ran alone, and its stack.

    `attempt` is the number of the execution that was to come.
    """

    queue: str
    handler: str
    attempt: int
    convict: Suspect
    stack: str

    @property
    def summary(self) -> str:
        """The reason for the quarantine, in one sentence."""
        last = self.convict.last
        end = "hung" if last.is_hang else "died"
        return f"ran when {self.convict.kills} workers died, and alone when the last one {end}: {in_words(last.status)}"

    def headers(self) -> dict[str, Any]:
        """Return the headers of a message in quarantine: those of a dead letter, and those about the worker's death.

        The stack has a line for each frame, the innermost first, and is cut at 2048 bytes.
        """
        last = self.convict.last
        as_dead_letter = Facts(
            queue=self.queue,
            handler=self.handler,
            attempt=self.attempt,
            kind="hung" if last.is_hang else "killed",
            error_type=in_words(last.status),
            error_text=self.summary,
            at_s=last.at_s,
        )
        how = {SIGNAL_HEADER: in_words(last.status)} if last.status < 0 else {EXIT_CODE_HEADER: last.status}
        return {
            **as_dead_letter.headers(),
            **how,
            KILLS_HEADER: self.convict.kills,
            PEAK_RSS_HEADER: last.peak_rss_bytes,
            UPTIME_HEADER: round(last.uptime_s * 1000),
            STACK_HEADER: head("\n".join(map(printable, self.stack.splitlines())), STACK_TEXT_BYTES),
        }


def retry_copy(delivery: Delivery, attempt: int) -> Content:
    """Return the copy that is tried again, now or later; `attempt` is the number of its own execution.

    Raises DecodeError when properties or headers cannot be split, or are too many, so that no copy can be made.
    """
    return _copy(delivery, {ATTEMPT_HEADER: attempt})


def copy_with_facts(delivery: Delivery, facts: Facts | KillFacts) -> Content:
    """Return the copy that is kept. The facts replace the headers of an earlier failure.

    Raises DecodeError when properties or headers cannot be split, or are too many, so that no copy can be made.
    """
    return _copy(delivery, facts.headers())


def bare_facts(delivery: Delivery, facts: Facts | KillFacts) -> Content:
    """Return the body with the facts, for a message of which no copy can be made. Its id stays, if it can be read."""
    message = Message(delivery.body, headers=facts.headers(), message_id=delivery.message_id)
    content = Encoder(max_body_bytes=len(delivery.body)).encode(message)
    return Copy(content.head, content.message_id, content.tail, content.body)


def _copy(delivery: Delivery, added: Mapping[str, Any]) -> Content:
    return copy_of(delivery.body, delivery.raw_properties, delivery.raw_route, added)


def _shown(text: str, size_bytes: int) -> str:
    """Return a printable beginning of `text`, which may have any length."""
    return head(printable(text[: size_bytes + 1]), size_bytes)
