"""The messages that are published with aio-pika."""

import uuid

from aio_pika import DeliveryMode, Message


def persistent(body: bytes) -> Message:
    """Return a message as mxworker makes them: persistent JSON with an id."""
    return Message(
        body, content_type="application/json", delivery_mode=DeliveryMode.PERSISTENT, message_id=uuid.uuid4().hex
    )
