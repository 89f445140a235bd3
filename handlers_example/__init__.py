"""A small shop to copy from: `shop` has a handler of each kind; the other modules are business code without queues.

`python -m handlers_example.demo` runs it.
"""
