"""Connections to a broker: made, watched, pooled and made anew."""
