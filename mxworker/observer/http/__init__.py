"""Serving HTTP: connections, who may ask, and which reply a request gets."""
