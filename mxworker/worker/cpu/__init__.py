"""The processes of `cpu=True` handlers: a `pool` of them in the worker, each a `process` that lives as a `member`."""
