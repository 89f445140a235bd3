"""A private RabbitMQ for tests, demo and benchmarks; `python -m tests.rabbit -- COMMAND` lends it to a command."""
