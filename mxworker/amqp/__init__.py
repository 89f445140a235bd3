"""Everything that speaks AMQP 0-9-1, and the only package that imports aio_pika and aiormq.

The modules of `protocol` are pure. This package knows nothing about handlers, processes or the board.
"""
