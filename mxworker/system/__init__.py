"""What every process needs of the operating system. Knows nothing about AMQP, queues or workers."""
