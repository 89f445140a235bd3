"""Decode the bytes of a body to a value, and encode a value. Pure; knows nothing about deliveries."""
