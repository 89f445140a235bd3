"""A demo of the shop: two workers, ten thousand orders, and a summary. Run it as `python -m handlers_example.demo`."""
