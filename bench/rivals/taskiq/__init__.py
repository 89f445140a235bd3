"""taskiq with taskiq-aio-pika, see https://taskiq-python.github.io/. Its worker takes uvloop where it is installed."""
