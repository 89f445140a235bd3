"""AMQP's values: properties, headers and what identifies a message. Pure."""
