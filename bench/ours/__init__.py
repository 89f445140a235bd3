"""mxworker as a contender: its programs, and the ways in which it is set up."""

IN_FLIGHT = 10_000
"""How many handlers run at once, or publishes are unconfirmed, when the memory that they take is measured."""
BURNT_S = 0.001
"""For how long a handler computes when the work of two workers is measured."""
