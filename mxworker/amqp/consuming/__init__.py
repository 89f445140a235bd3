"""Consumers: the queues they need, what is delivered, and what is settled."""
