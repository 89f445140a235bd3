"""A small shop to copy from: `shop` has the handler, `pricing` knows what things cost, `invoices` writes them down.

`python -m handlers_example.demo` shows it at work.
"""
