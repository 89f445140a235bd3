"""Requests to a running service: their form, the socket they go over, and its status."""
