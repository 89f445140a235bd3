"""One delivery's way through one handler, from its admission to its settlement."""
