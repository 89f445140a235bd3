"""AMQP's values: properties, headers and message keys. Pure."""
