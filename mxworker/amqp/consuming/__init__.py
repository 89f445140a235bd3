"""Consumers: declaring their queues, receiving deliveries, and settling them."""
