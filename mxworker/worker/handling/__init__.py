"""The way of one delivery through one handler, from its admission to its settlement."""
