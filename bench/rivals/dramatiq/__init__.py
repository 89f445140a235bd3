"""Dramatiq on RabbitMQ, see https://dramatiq.io/guide.html and https://dramatiq.io/best_practices.html."""
