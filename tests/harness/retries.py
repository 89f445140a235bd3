"""Retries for tests that do not want to wait."""

from mxworker import RetryPolicy

FAST = RetryPolicy(max_retries=3, delays=(0.1, 0.3, 0.9), jitter=False)
