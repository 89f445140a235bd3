"""What a program does with pika: `python with_pika.py URL` prints one line for each thing that went as it should."""

from __future__ import annotations

import sys
import time

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, UnroutableError

COUNT = 100


def main() -> None:
    connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
    channel = connection.channel()
    queue = declare(channel)
    confirms(channel, queue)
    consume(channel, queue)
    get(channel, queue)
    returned(channel)
    cancel(channel, queue)
    transaction(connection.channel(), queue)
    dead_letter(channel, queue)
    refused(connection)
    connection.close()
    print("closed")


def declare(channel: BlockingChannel) -> str:
    queue: str = channel.queue_declare("", exclusive=True).method.queue
    channel.exchange_declare(f"orders-of-{queue}", "topic", auto_delete=True)
    channel.queue_bind(queue, f"orders-of-{queue}", "orders.#")
    again = channel.queue_declare(queue, passive=True).method
    print(f"declared: {again.message_count} messages, {again.consumer_count} consumers")
    return queue


def confirms(channel: BlockingChannel, queue: str) -> None:
    channel.confirm_delivery()
    for number in range(COUNT):
        properties = pika.BasicProperties(delivery_mode=2, message_id=str(number), headers={"n": number})
        channel.basic_publish(f"orders-of-{queue}", "orders.new", str(number).encode(), properties, mandatory=True)
    print(f"confirmed: {COUNT}")


def consume(channel: BlockingChannel, queue: str) -> None:
    channel.basic_qos(prefetch_count=10)
    seen, redelivered = [], 0
    for method, properties, body in channel.consume(queue):
        if body == b"5" and not method.redelivered:
            channel.basic_nack(method.delivery_tag, requeue=True)
            continue
        redelivered += method.redelivered
        assert properties.message_id == str(properties.headers["n"]) == body.decode()
        seen.append(int(body))
        channel.basic_ack(method.delivery_tag)
        if len(seen) == COUNT:
            break
    channel.cancel()
    print(f"consumed: {len(set(seen))}, {redelivered} redelivered")


def get(channel: BlockingChannel, queue: str) -> None:
    channel.basic_publish("", queue, b"x" * 300_000)
    method, _, body = channel.basic_get(queue)
    assert method is not None
    channel.basic_ack(method.delivery_tag)
    empty = channel.basic_get(queue)[0] is None
    print(f"got: {len(body)} bytes, then {'nothing' if empty else 'more'}")


def returned(channel: BlockingChannel) -> None:
    try:
        channel.basic_publish("", "nobody-has-this-queue", b"back", mandatory=True)
    except UnroutableError as error:
        method = error.messages[0].method
        print(f"returned: {method.reply_code} {method.reply_text}")


def cancel(channel: BlockingChannel, queue: str) -> None:
    seen: list[bytes] = []
    tag = channel.basic_consume(queue, lambda *delivery: seen.append(delivery[-1]), auto_ack=True)
    channel.basic_cancel(tag)
    channel.basic_publish("", queue, b"after")
    ready = channel.queue_declare(queue, passive=True).method.message_count
    channel.queue_purge(queue)
    print(f"cancelled: {len(seen)} delivered, {ready} ready")


def transaction(channel: BlockingChannel, queue: str) -> None:
    channel.tx_select()
    ready = []
    for end in (channel.tx_rollback, channel.tx_commit):
        channel.basic_publish("", queue, b"one")
        channel.basic_publish("", queue, b"two")
        ready.append(channel.queue_declare(queue, passive=True).method.message_count)
        end()
        ready.append(channel.queue_declare(queue, passive=True).method.message_count)
    channel.queue_purge(queue)
    channel.close()
    print(f"transactions: {ready}")


def dead_letter(channel: BlockingChannel, queue: str) -> None:
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue, "x-message-ttl": 60_000}
    source = channel.queue_declare("", exclusive=True, arguments=arguments).method.queue
    channel.basic_publish("", source, b"bad")
    method, _, _ = channel.basic_get(source)
    assert method is not None
    channel.basic_reject(method.delivery_tag, requeue=False)
    while (properties := channel.basic_get(queue, auto_ack=True)[1]) is None:
        time.sleep(0.01)
    death = properties.headers["x-death"][0]
    print(f"dead letter: {death['reason']} {death['count']} times from {'source' if death['queue'] == source else '?'}")


def refused(connection: pika.BlockingConnection) -> None:
    try:
        connection.channel().queue_declare("nobody-has-this-queue", passive=True)
    except ChannelClosedByBroker as error:
        connection.channel().close()
        print(f"refused: {error.reply_code} {error.reply_text}")


if __name__ == "__main__":
    main()
