"""Connections to a broker: connecting, watching, pooling and replacing them."""
