"""The documentation. `make docs` makes the pages of its reference that come from the code."""
