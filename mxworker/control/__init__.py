"""Requests to a running service: their format, the control socket, and the status of the service."""
