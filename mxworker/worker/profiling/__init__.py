"""Profiles of a worker process that works on meanwhile."""
