"""A small shop to copy from: `shop` has a handler of each kind; the rest is the business, which knows no queue.

`python -m handlers_example.demo` shows it at work.
"""
