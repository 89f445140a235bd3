"""rabbitkit, see https://talaatmagdyx.github.io/rabbitkit/, with its transport on aio-pika."""
