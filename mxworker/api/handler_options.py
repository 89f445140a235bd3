"""The options of a handler, each written once: its name, its type, its default, and what it means.

The decorators take the options by name, so that an editor completes them. `registration` checks the values.
`compilation` chooses the defaults that depend on the kind of the handler.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from mxworker.api.circuit_breaker import CircuitBreaker
from mxworker.api.retry_policy import DEFAULT_RETRY, RetryPolicy

OnError = Literal["retry", "reject", "requeue", "ack"]
"""The settlement of a failure; see `HandlerOptions`."""


class HandlerOptions(TypedDict, total=False):
    """The options of every handler. All durations are in seconds.

    `concurrency`: the number of deliveries that run at once in each process, by default 32, with `cpu` 1; for a batch
    handler the number of batches, by default 1.
    `prefetch`: the number of unsettled deliveries that the broker may send to each process, by default twice as many as
    run at once. No more deliveries than this run at once, and no batch is larger.
    `timeout`: the time that the handler may run, for a batch as a whole, by default 30.
    `objective`: messages that are older than this when their handler starts are late. The number may also be a text
    such as "5m". Nothing happens to a late message: the objective is for the metrics, and for the alert on them. By
    default there is none.
    `on_error`: the settlement of a failure. A failure is an exception that is no settlement, a result that is none, or
    a run longer than `timeout`. "retry", the default, retries the delivery by `retry`, and then rejects it. "reject"
    moves it into the dead-letter queue at once. "requeue" has it redelivered immediately. "ack" drops it.
    `retry`: the delays and the number of the retries. With None no retry is delayed, and there are no retry queues.
    `reject_on`: exceptions that are always rejected.
    `circuit_breaker`: pauses the queue for a while when too many deliveries fail; by default there is none.
    """

    concurrency: int | None
    prefetch: int | None
    timeout: float | None
    objective: str | float | None
    on_error: OnError
    retry: RetryPolicy | None
    reject_on: type[BaseException] | Sequence[type[BaseException]]
    circuit_breaker: CircuitBreaker | None


class SingleOptions(HandlerOptions, total=False):
    """The options of a handler of single deliveries.

    `cpu`: run a `def` in a process of its own, so that its computing holds up no other handler; by default it runs in
    a thread.
    """

    cpu: bool


class BatchOptions(HandlerOptions, total=False):
    """The options of a handler of batches.

    `size`: the number of deliveries that completes a batch, by default 100.
    `wait`: the seconds after its first delivery that complete a smaller batch, by default 0.1.
    `max_bytes`: the bytes of bodies that complete a batch, by default 16 MiB.
    """

    size: int
    wait: float
    max_bytes: int


_ANY_HANDLER: HandlerOptions = {
    "concurrency": None,
    "prefetch": None,
    "timeout": None,
    "objective": None,
    "on_error": "retry",
    "retry": DEFAULT_RETRY,
    "reject_on": (),
    "circuit_breaker": None,
}


def single_options(said: SingleOptions) -> SingleOptions:
    """Return the options of a `consume`, with the defaults. Raises TypeError for an unknown option."""
    _refuse_unknown("consume", said, SingleOptions.__optional_keys__)
    return {**_ANY_HANDLER, "cpu": False, **said}


def batch_options(said: BatchOptions) -> BatchOptions:
    """Return the options of a `consume_batch`, with the defaults. Raises TypeError for an unknown option."""
    _refuse_unknown("consume_batch", said, BatchOptions.__optional_keys__)
    return {**_ANY_HANDLER, "size": 100, "wait": 0.1, "max_bytes": 16 * 1024 * 1024, **said}


def _refuse_unknown(decorator: str, said: Mapping[str, object], known: frozenset[str]) -> None:
    for name in said:
        if name not in known:
            raise TypeError(f"{decorator}() got an unexpected keyword argument '{name}'; {_hint(name, known)}")


def _hint(name: str, known: frozenset[str]) -> str:
    from difflib import get_close_matches  # loaded for a mistake only

    nearest = get_close_matches(name, sorted(known), 1)
    return f"did you mean '{nearest[0]}'?" if nearest else f"it takes {', '.join(sorted(known))}"
