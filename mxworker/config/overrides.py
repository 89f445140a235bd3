"""What an operator can set for handlers in place of the code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mxworker.config.bounds import MAX_BATCH_WAIT_S, MAX_PREFETCH, MAX_RETRIES
from mxworker.config.kinds import Choice, Duration, Whole, WholeOrShared
from mxworker.config.leaf import leaf


@dataclass(frozen=True, slots=True)
class Overrides:
    """The operator's values for handlers, which override those in the code; None keeps the value in the code."""

    concurrency: int | None = leaf(
        None,
        Whole(1, 65535),
        "How many handlers may run at once, for each queue in each worker.",
        short="-c",
        unset="as in the code",
    )
    prefetch: int | None = leaf(
        None,
        WholeOrShared(1, MAX_PREFETCH),
        "How many unsettled messages the broker may send, for each queue to each worker. 1000/workers divides 1000 by "
        "the number of workers at the start.",
        unset="as in the code",
    )
    timeout_s: float | None = leaf(
        None,
        Duration(),
        "How long a handler may run for one message.",
        name="handler-timeout",
        unset="as in the code",
    )
    max_retries: int | None = leaf(
        None,
        Whole(0, MAX_RETRIES),
        "After this many retries the next failure makes a message a dead letter. A handler whose code says retry=None "
        "has none.",
        unset="as in the code",
    )
    on_error: Literal["retry", "reject", "requeue", "ack"] | None = leaf(
        None,
        Choice(("retry", "reject", "requeue", "ack"), "HOW"),
        "What becomes of a message whose handler fails: 'retry' retries it later, 'reject' makes it a dead letter, "
        "'requeue' has it delivered again at once, 'ack' drops it.",
        unset="as in the code",
    )
    batch_size: int | None = leaf(
        None, Whole(1, MAX_PREFETCH), "How many messages complete a batch.", unset="as in the code"
    )
    batch_wait_s: float | None = leaf(
        None,
        Duration(at_most_s=MAX_BATCH_WAIT_S, may_be_zero=True),
        "How long after its first message a smaller batch is complete.",
        unset="as in the code",
    )


AS_IN_CODE = Overrides()
NO_OVERRIDES: Mapping[str, Overrides] = MappingProxyType({})
