"""The parent: it keeps N worker processes alive. Knows nothing about RabbitMQ, asyncio or user code."""
