"""What Prometheus sees of a service that works, minute by minute, and what is different under each fault.

A fault names the alert that tells it, and the series that it changes. All begin at minute BEGINS; the service was well
before. A value is a function of the minute; None means that there is no sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MINUTES = 90
BEGINS = 40
ME = 'job="shop",instance="10.0.0.1:9191"'
ORDERS = f'{ME},queue="orders"'
MAILS = f'{ME},queue="mails"'
HANDLER = f'{ORDERS},handler="take_order"'
OUTCOMES = ("ack", "requeue", "retry", "reject", "decode_error", "timeout", "stale", "quarantine")

Values = Callable[[int], float | None]


def always(value: float) -> Values:
    """A gauge that does not change."""
    return lambda minute: value


def rising(per_minute: float) -> Values:
    """A counter that rises evenly."""
    return lambda minute: per_minute * minute


def from_begin(before: Values, after: Values) -> Values:
    """`before` up to the fault, and from there on `after`, which counts its minutes from the fault."""
    return lambda minute: before(minute) if minute < BEGINS else after(minute - BEGINS)


def stopping(counter: Values) -> Values:
    """A counter that stands still from the fault on."""
    return lambda minute: counter(min(minute, BEGINS))


def growing(counter: Values, per_minute: float) -> Values:
    """A counter that rises by so much more from the fault on."""

    def value(minute: int) -> float:
        before = counter(minute)
        assert before is not None
        return before + per_minute * max(0, minute - BEGINS)

    return value


def once(counter: Values, by: float) -> Values:
    """A counter that has jumped by `by` at the fault."""
    return lambda minute: (counter(minute) or 0) + (by if minute >= BEGINS else 0)


def gone(values: Values) -> Values:
    """No sample from the fault on."""
    return lambda minute: values(minute) if minute < BEGINS else None


def histogram(name: str, labels: str, per_minute: float, seconds: float) -> dict[str, Values]:
    """A histogram of values that are all `seconds`."""
    bounds = (0.005, 0.01, 0.1, 1, 10, 60, 300)
    counts = {f"{bound:g}": rising(per_minute if seconds <= bound else 0) for bound in bounds}
    series = {f'{name}_bucket{{{labels},le="{bound}"}}': values for bound, values in counts.items()}
    series[f'{name}_bucket{{{labels},le="+Inf"}}'] = rising(per_minute)
    series[f"{name}_count{{{labels}}}"] = rising(per_minute)
    series[f"{name}_sum{{{labels}}}"] = rising(per_minute * seconds)
    return series


def other_histogram(name: str, labels: str, per_minute: float, seconds: float, later_s: float) -> dict[str, Values]:
    """A histogram whose values are `later_s` from the fault on."""
    before, after = histogram(name, labels, per_minute, seconds), histogram(name, labels, per_minute, later_s)
    return {
        key: lambda minute, key=key: (
            (before[key](min(minute, BEGINS)) or 0) + (after[key](max(0, minute - BEGINS)) or 0)
        )
        for key in before
    }


HEALTHY: dict[str, Values] = {
    f"up{{{ME}}}": always(1),
    f'mxworker_build_info{{{ME},version="0.1.0"}}': always(1),
    f'mxworker_service_state{{{ME},state="starting"}}': always(0),
    f'mxworker_service_state{{{ME},state="running"}}': always(1),
    f"mxworker_consuming_workers{{{ORDERS}}}": always(2),
    f"mxworker_consumer_paused{{{ORDERS}}}": always(0),
    f"mxworker_consuming_workers{{{MAILS}}}": always(2),
    f"mxworker_consumer_paused{{{MAILS}}}": always(0),
    f'mxworker_handler_slots{{{MAILS},handler="send"}}': always(8),
    f"mxworker_in_flight{{{ORDERS}}}": always(3),
    f"mxworker_prefetched{{{ORDERS}}}": always(0),
    f"mxworker_last_delivery_timestamp_seconds{{{ORDERS}}}": rising(60),
    f"mxworker_queue_ready{{{ORDERS}}}": always(5),
    f"mxworker_queue_dead_letters{{{ORDERS}}}": always(7),
    f"mxworker_queue_quarantined{{{ORDERS}}}": always(0),
    f"mxworker_handler_slots{{{HANDLER}}}": always(64),
    f"mxworker_handler_busy_seconds_total{{{HANDLER}}}": rising(60 * 64 * 0.5),
    f"mxworker_message_age_objective_seconds{{{HANDLER}}}": always(600),
    f'mxworker_failures_total{{{HANDLER},error_type="ValueError"}}': rising(6),
    **{f'mxworker_messages_total{{{HANDLER},outcome="{outcome}"}}': always(0) for outcome in OUTCOMES},
    f'mxworker_messages_total{{{HANDLER},outcome="ack"}}': rising(600),
    f'mxworker_messages_total{{{HANDLER},outcome="retry"}}': rising(6),
    f'mxworker_published_total{{{ME},exchange="",outcome="confirmed"}}': rising(600),
    f'mxworker_published_total{{{ME},exchange="",outcome="unconfirmed"}}': always(0),
    f"mxworker_publish_blocked{{{ME}}}": always(0),
    f'mxworker_event_loop_lag_seconds{{{ME},worker="0"}}': always(0.002),
    f'mxworker_event_loop_lag_seconds{{{ME},worker="1"}}': always(0.002),
    f"mxworker_stuck_handlers{{{ORDERS}}}": always(0),
    f'mxworker_worker_restarts_total{{{ME},reason="crash"}}': always(0),
    f'mxworker_worker_restarts_total{{{ME},reason="reload"}}': rising(1),
    **histogram("mxworker_message_age_seconds", ORDERS, 600, 0.5),
    **histogram("mxworker_publish_confirm_duration_seconds", ME, 600, 0.004),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault: the alerts that fire under it, and what it changes."""

    alerts: tuple[str, ...]
    changes: Mapping[str, Values] = field(default_factory=dict)

    def series(self) -> dict[str, Values]:
        """Return all series under the fault."""
        unknown = self.changes.keys() - HEALTHY.keys()
        assert not unknown, unknown
        return {**HEALTHY, **self.changes}


_ACKS = f'mxworker_messages_total{{{HANDLER},outcome="ack"}}'
_RETRIES = f'mxworker_messages_total{{{HANDLER},outcome="retry"}}'
_ERRORS = f'mxworker_failures_total{{{HANDLER},error_type="ValueError"}}'
_READY = f"mxworker_queue_ready{{{ORDERS}}}"
_LAST = f"mxworker_last_delivery_timestamp_seconds{{{ORDERS}}}"
_STARTING, _RUNNING = (f'mxworker_service_state{{{ME},state="{state}"}}' for state in ("starting", "running"))
_CONSUMING = f"mxworker_consuming_workers{{{ORDERS}}}"
_HELD = f"mxworker_in_flight{{{ORDERS}}}"
_STANDING = {
    _HELD: from_begin(always(3), always(0)),
    **{name: stopping(HEALTHY[name]) for name in (_ACKS, _RETRIES, _ERRORS, _LAST)},
}
_GROWING = from_begin(always(5), rising(100))
_UNCONFIRMED = f'mxworker_published_total{{{ME},exchange="",outcome="unconfirmed"}}'
_BUSY = {f"mxworker_handler_busy_seconds_total{{{HANDLER}}}": growing(rising(60 * 32), 60 * 31.9)}


def _is_up(name: str) -> bool:
    return name.startswith("up{")


def _is_of_workers(name: str) -> bool:
    return name.startswith(("mxworker_consuming_workers", "mxworker_handler_slots"))


def _at_times(name: str) -> Values:
    """A service that starts every four minutes, answers one scrape, and gives up."""
    shown = 1 if _is_up(name) or 'state="starting"' in name else 0
    return lambda minute: shown if minute % 4 == 0 else 0 if _is_up(name) else None


FAULTS: dict[str, Fault] = {
    "nothing": Fault(()),
    "broker down": Fault(
        ("NotConsuming",),
        {
            **_STANDING,
            _CONSUMING: from_begin(always(2), always(0)),
            _READY: gone(always(5)),
            f"mxworker_queue_dead_letters{{{ORDERS}}}": gone(always(7)),
            _UNCONFIRMED: once(always(0), 40),
        },
    ),
    "queue refused": Fault(
        ("NotConsuming",), {**_STANDING, _CONSUMING: from_begin(always(2), always(0)), _READY: _GROWING}
    ),
    "connected and not consuming": Fault(("NotConsuming",), {**_STANDING, _READY: _GROWING}),
    "all workers dead": Fault(
        ("NotConsuming",),
        {
            **_STANDING,
            **{name: from_begin(values, always(0)) for name, values in HEALTHY.items() if _is_of_workers(name)},
        },
    ),
    "queue that new code consumes no more": Fault(
        (),
        {
            name: from_begin(values, always(0))
            for name, values in HEALTHY.items()
            if _is_of_workers(name) and MAILS in name
        },
    ),
    "queue paused": Fault(
        (),
        {
            **_STANDING,
            _CONSUMING: from_begin(always(2), always(0)),
            _READY: _GROWING,
            f"mxworker_consumer_paused{{{ORDERS}}}": from_begin(always(0), always(1)),
        },
    ),
    "one very long message": Fault((), {**_STANDING, _HELD: always(1), _READY: _GROWING}),
    "handler so quick that nothing is seen in flight": Fault((), {_HELD: always(0)}),
    "nothing to do": Fault((), {**_STANDING, _READY: always(0)}),
    "long queue that is served": Fault((), {_READY: from_begin(always(5), always(100_000))}),
    "old messages": Fault(
        ("AgeHigh",), other_histogram("mxworker_message_age_seconds", ORDERS, 600, 0.5, later_s=3600)
    ),
    "old messages within the objective": Fault(
        (), other_histogram("mxworker_message_age_seconds", ORDERS, 600, 0.5, later_s=500)
    ),
    "every tenth message is late": Fault(
        ("AgeHigh",),
        {
            f"mxworker_message_age_objective_seconds{{{HANDLER}}}": always(30),
            **{
                name: growing(HEALTHY[name], late(1) or 0)
                for name, late in histogram("mxworker_message_age_seconds", ORDERS, 67, 200).items()
            },
        },
    ),
    "handler that fails": Fault(
        ("FailureRatio",),
        {_ACKS: stopping(rising(600)), _RETRIES: growing(rising(6), 600), _ERRORS: growing(rising(6), 600)},
    ),
    "a failure every two minutes, and nothing else": Fault(
        (),
        {
            _ACKS: stopping(rising(600)),
            **{name: growing(stopping(rising(6)), 0.5) for name in (_RETRIES, _ERRORS)},
        },
    ),
    "rejected messages": Fault(
        ("DeadLettersRising",), {f'mxworker_messages_total{{{HANDLER},outcome="reject"}}': growing(always(0), 1)}
    ),
    "messages that the broker dead-letters": Fault(
        ("DeadLettersRising",), {f"mxworker_queue_dead_letters{{{ORDERS}}}": growing(always(7), 1)}
    ),
    "dead letters that are put back": Fault(
        (), {f"mxworker_queue_dead_letters{{{ORDERS}}}": from_begin(always(7), always(0))}
    ),
    "poison message": Fault(
        ("Quarantined",),
        {
            f'mxworker_messages_total{{{HANDLER},outcome="quarantine"}}': once(always(0), 1),
            f"mxworker_queue_quarantined{{{ORDERS}}}": once(always(0), 1),
            f'mxworker_worker_restarts_total{{{ME},reason="crash"}}': once(always(0), 3),
        },
    ),
    "saturated handler": Fault(("Saturated",), {**_BUSY, _READY: _GROWING}),
    "saturated handler whose messages wait longer and longer": Fault(
        ("Saturated",), {**_BUSY, f"mxworker_message_age_seconds_sum{{{ORDERS}}}": lambda minute: minute**3}
    ),
    "busy handler that keeps up": Fault((), _BUSY),
    "crash loop": Fault(
        ("WorkerFlapping",), {f'mxworker_worker_restarts_total{{{ME},reason="crash"}}': growing(always(0), 2)}
    ),
    "never ready": Fault(
        ("NeverReady",),
        {
            **_STANDING,
            _STARTING: from_begin(always(0), always(1)),
            _RUNNING: from_begin(always(1), always(0)),
            _CONSUMING: from_begin(always(2), always(0)),
            _READY: _GROWING,
        },
    ),
    "never ready, and started again and again": Fault(
        ("NeverReady",), {name: from_begin(values, _at_times(name)) for name, values in HEALTHY.items()}
    ),
    "a slow start of a new service": Fault(
        (),
        {
            **{name: from_begin(lambda minute: None, values) for name, values in HEALTHY.items()},
            _STARTING: from_begin(lambda minute: None, lambda minute: minute < 4),
            _RUNNING: from_begin(lambda minute: None, lambda minute: minute >= 4),
        },
    ),
    "broker that does not confirm": Fault(("PublishUnconfirmed",), {_UNCONFIRMED: growing(always(0), 30)}),
    "one lost connection": Fault((), {_UNCONFIRMED: once(always(0), 500)}),
    "broker low on memory": Fault(
        ("PublishBlocked",), {f"mxworker_publish_blocked{{{ME}}}": from_begin(always(0), always(1))}
    ),
    "slow confirms": Fault(
        ("ConfirmSlow",), other_histogram("mxworker_publish_confirm_duration_seconds", ME, 600, 0.004, later_s=0.9)
    ),
    "blocked loop, which reads confirms late": Fault(
        ("LoopLag",),
        {
            f'mxworker_event_loop_lag_seconds{{{ME},worker="1"}}': from_begin(always(0.002), always(0.6)),
            **other_histogram("mxworker_publish_confirm_duration_seconds", ME, 600, 0.004, later_s=0.9),
        },
    ),
    "stuck handler": Fault(
        ("StuckHandlers",), {f"mxworker_stuck_handlers{{{ORDERS}}}": from_begin(always(0), always(1))}
    ),
    "target that does not answer": Fault(
        ("ScrapeMissing",),
        {name: from_begin(values, always(0)) if _is_up(name) else gone(values) for name, values in HEALTHY.items()},
    ),
    "service that is no target any more": Fault(
        ("ScrapeMissing",), {name: gone(values) for name, values in HEALTHY.items()}
    ),
}
