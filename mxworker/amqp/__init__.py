"""Everything that speaks AMQP 0-9-1. The only place that imports aio_pika and aiormq.

`frames` and `acks` are pure. Knows nothing about handlers, processes or the board.
"""
