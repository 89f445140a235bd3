"""The processes of `cpu=True` handlers: the worker has a `pool` of them, and each `process` runs `member`."""
