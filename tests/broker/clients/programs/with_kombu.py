"""What a program does with kombu: `python with_kombu.py URL` prints one line for each thing that went as it should."""

from __future__ import annotations

import sys
import time
import uuid
from typing import Any

import kombu
from amqp.exceptions import NotFound

COUNT = 100


def main() -> None:
    with kombu.Connection(sys.argv[1], transport_options={"confirm_publish": True}) as connection:
        channel = connection.channel()
        queue = declare(channel)
        confirms(connection, queue)
        consume(connection, channel, queue)
        get(connection, channel, queue)
        returned(connection, channel)
        cancel(connection, channel, queue)
        transaction(connection, queue)
        dead_letter(connection, channel, queue)
        refused(connection)
        queue.delete()
    print("closed")


def declare(channel: Any) -> kombu.Queue:
    name = f"kombu-{uuid.uuid4()}"
    exchange = kombu.Exchange(f"orders-of-{name}", "topic", auto_delete=True, durable=False)
    queue = kombu.Queue(name, exchange, "orders.#", durable=False, expires=600)(channel)
    queue.declare()
    again = queue.queue_declare(passive=True)
    print(f"declared: {again.message_count} messages, {again.consumer_count} consumers")
    return queue


def confirms(connection: kombu.Connection, queue: kombu.Queue) -> None:
    producer = connection.Producer(exchange=queue.exchange, routing_key="orders.new", serializer="json")
    for number in range(COUNT):
        producer.publish({"number": number}, mandatory=True, confirm_timeout=60, headers={"n": number})
    print(f"confirmed: {COUNT}")


def consume(connection: kombu.Connection, channel: Any, queue: kombu.Queue) -> None:
    seen, redelivered = [], 0

    def on_message(body: dict[str, int], message: kombu.Message) -> None:
        nonlocal redelivered
        number = body["number"]
        assert message.headers["n"] == number
        if number == 5 and not message.delivery_info["redelivered"]:
            message.requeue()
            return
        redelivered += message.delivery_info["redelivered"]
        seen.append(number)
        message.ack()

    with connection.Consumer([queue], callbacks=[on_message], prefetch_count=10, channel=channel):
        while len(seen) < COUNT:
            connection.drain_events(timeout=60)
    print(f"consumed: {len(set(seen))}, {redelivered} redelivered")


def get(connection: kombu.Connection, channel: Any, queue: kombu.Queue) -> None:
    publish(connection, queue.name, b"x" * 300_000)
    message = queue.get()
    assert message is not None
    message.ack()
    print(f"got: {len(message.body)} bytes, then {'nothing' if queue.get() is None else 'more'}")


def returned(connection: kombu.Connection, channel: Any) -> None:
    returns = []
    producer = connection.Producer(on_return=lambda error, *_: returns.append(error))
    producer.publish(b"back", routing_key="nobody-has-this-queue", mandatory=True, confirm_timeout=60)
    print(f"returned: {returns[0].reply_code} {returns[0].reply_text}")


def cancel(connection: kombu.Connection, channel: Any, queue: kombu.Queue) -> None:
    seen: list[Any] = []
    consumer = connection.Consumer([queue], callbacks=[lambda *delivery: seen.append(delivery)], channel=channel)
    consumer.consume()
    consumer.cancel()
    publish(connection, queue.name, b"after")
    ready = queue.queue_declare(passive=True).message_count
    queue.purge()
    print(f"cancelled: {len(seen)} delivered, {ready} ready")


def transaction(connection: kombu.Connection, queue: kombu.Queue) -> None:
    with kombu.Connection(connection.as_uri(include_password=True)) as plain:  # a channel has confirms or transactions
        channel = plain.default_channel
        channel.tx_select()
        ready = []
        for end in (channel.tx_rollback, channel.tx_commit):
            for body in (b"one", b"two"):
                plain.Producer(channel).publish(body, routing_key=queue.name)
            ready.append(queue.queue_declare(passive=True).message_count)
            end()
            ready.append(queue.queue_declare(passive=True).message_count)
    queue.purge()
    print(f"transactions: {ready}")


def dead_letter(connection: kombu.Connection, channel: Any, queue: kombu.Queue) -> None:
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name, "x-message-ttl": 60_000}
    name = channel.queue_declare("", exclusive=True, auto_delete=False, arguments=arguments).queue
    publish(connection, name, b"bad")
    message = kombu.Queue(name)(channel).get()
    assert message is not None
    message.reject()
    while (letter := queue.get(no_ack=True)) is None:
        time.sleep(0.01)
    death = letter.headers["x-death"][0]
    print(f"dead letter: {death['reason']} {death['count']} times from {'source' if death['queue'] == name else '?'}")


def refused(connection: kombu.Connection) -> None:
    try:
        connection.channel().queue_declare("nobody-has-this-queue", passive=True)
    except NotFound as error:
        connection.channel().close()
        print(f"refused: {error.reply_code} {error.reply_text}")


def publish(connection: kombu.Connection, queue: str, body: bytes) -> None:
    connection.Producer().publish(body, routing_key=queue, confirm_timeout=60)


if __name__ == "__main__":
    main()
