"""The shop at work: a service on two workers, ten thousand orders, and a summary. `python -m handlers_example.demo`."""
