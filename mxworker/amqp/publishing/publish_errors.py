"""The errors of publishes, with texts that name the cause and the remedy. Pure."""

from __future__ import annotations

from collections.abc import Callable

from mxworker import errors
from mxworker.amqp.publishing.publishing import Publishing, State


def verdict(publishing: Publishing, why_unsent: Callable[[Publishing], str]) -> errors.PublishError:
    """Return the error of a publish, by all its attempts. `why_unsent` is called if it was never sent."""
    if publishing.doubt is not None:
        return errors.PublishUnconfirmed(
            f"publish to {publishing.route}: {publishing.doubt}; it may be in the queue, or not"
        )
    if publishing.refusal is not None:
        return publishing.refusal
    return errors.PublishOverflow(f"publish to {publishing.route} was not sent: {why_unsent(publishing)}")


def unsent(publishing: Publishing, max_in_flight: int) -> str:
    """Return why a publish was not sent, by the state in which it waited."""
    match publishing.state:
        case State.WINDOW:
            return f"{max_in_flight} publishes before it had no outcome yet"
        case State.EXCHANGE:
            return "the broker has not answered yet whether the exchange exists"
        case State.SAME_ID:
            return "another publish with its message id had no outcome yet"
        case _:
            return "no channel could take it in time"


def nacked(publishing: Publishing) -> errors.PublishNacked:
    """Return the error of a publish that the broker nacked."""
    return errors.PublishNacked(f"publish to {publishing.route} was refused: basic.nack")


def unroutable(publishing: Publishing) -> errors.Unroutable:
    """Return the error of a publish that no queue takes, with its remedy."""
    if publishing.route.exchange:
        advice = "no queue is bound to this exchange with such a routing key; Queue(..., bind=[...]) binds one"
    else:
        advice = (
            f"there is no queue of that name. A queue exists once a worker consumes it, or "
            f'handlers.declare(Queue("{publishing.route.routing_key}")) declares it'
        )
    return errors.Unroutable(f"publish to {publishing.route} was returned ({publishing.return_reason}): {advice}.")


def headers_too_large(publishing: Publishing, limit_bytes: int) -> errors.MessageTooLarge:
    """Return the error of a publish whose properties do not fit into one frame of its connection."""
    return errors.MessageTooLarge(
        f"publish to {publishing.route}: the headers and properties take {len(publishing.properties)} bytes, "
        f"and the connection takes {limit_bytes}"
    )
