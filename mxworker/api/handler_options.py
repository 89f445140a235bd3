"""The options of a handler, each written once: its name, its type, its default, and what it means.

The decorators take them by name, so that an editor completes them. `registration` checks the values, and what is not
said here follows from the kind of the handler in `compilation`.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from mxworker.api.circuit_breaker import CircuitBreaker
from mxworker.api.retry_policy import DEFAULT_RETRY, RetryPolicy

OnError = Literal["retry", "reject", "requeue", "ack"]


class HandlerOptions(TypedDict, total=False):
    """What may be said of any handler. All durations are in seconds.

    `concurrency`: how many handlers run at once in each process, by default 32, with `cpu` 1; of a batch handler, how
    many batches, by default 1.
    `prefetch`: how many unsettled deliveries the broker may send ahead to each process, by default twice as many as are
    handled at once. Fewer than `concurrency` limits that too, and a batch is never larger.
    `timeout`: how long the handler may run, a batch as a whole, by default 30.
    `on_error`: what becomes of a failure, which is any exception that is no settlement, a result that is none, or more
    time than `timeout`. "retry", the default, tries it again later as `retry` says and then rejects it, "reject" moves
    it into the dead-letter queue at once, "requeue" has it redelivered immediately, "ack" forgets it.
    `retry`: the delays and the number of the retries. With None there are none with a delay, and no retry queues.
    `reject_on`: exceptions that are always rejected.
    `circuit_breaker`: leaves the queue alone for a while when too many deliveries fail; by default there is none.
    """

    concurrency: int | None
    prefetch: int | None
    timeout: float | None
    on_error: OnError
    retry: RetryPolicy | None
    reject_on: type[BaseException] | Sequence[type[BaseException]]
    circuit_breaker: CircuitBreaker | None


class SingleOptions(HandlerOptions, total=False):
    """What may be said of a handler of single deliveries.

    `cpu`: run a `def` in a process of its own, to compute without holding up others; by default it runs in a thread.
    """

    cpu: bool


class BatchOptions(HandlerOptions, total=False):
    """What may be said of a handler of batches.

    `size`: how many deliveries make a batch, by default 100.
    `wait`: how many seconds after its first delivery a smaller one is handled, by default 0.1.
    `max_bytes`: how many bytes of bodies make a batch, by default 16 MiB.
    """

    size: int
    wait: float
    max_bytes: int


_ANY_HANDLER: HandlerOptions = {
    "concurrency": None,
    "prefetch": None,
    "timeout": None,
    "on_error": "retry",
    "retry": DEFAULT_RETRY,
    "reject_on": (),
    "circuit_breaker": None,
}


def single_options(said: SingleOptions) -> SingleOptions:
    """Return what was said to `consume`, with the defaults. Raises TypeError for an option that there is not."""
    _refuse_unknown("consume", said, SingleOptions.__optional_keys__)
    return {**_ANY_HANDLER, "cpu": False, **said}


def batch_options(said: BatchOptions) -> BatchOptions:
    """Return what was said to `consume_batch`, with the defaults. Raises TypeError for an option that there is not."""
    _refuse_unknown("consume_batch", said, BatchOptions.__optional_keys__)
    return {**_ANY_HANDLER, "size": 100, "wait": 0.1, "max_bytes": 16 * 1024 * 1024, **said}


def _refuse_unknown(decorator: str, said: Mapping[str, object], known: frozenset[str]) -> None:
    for name in said:
        if name not in known:
            raise TypeError(f"{decorator}() got an unexpected keyword argument '{name}'; {_hint(name, known)}")


def _hint(name: str, known: frozenset[str]) -> str:
    from difflib import get_close_matches  # not loaded by an application that makes no mistake

    nearest = get_close_matches(name, sorted(known), 1)
    return f"did you mean '{nearest[0]}'?" if nearest else f"it takes {', '.join(sorted(known))}"
