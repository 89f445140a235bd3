"""Benchmarks against rivals, in the same run. They need a broker: `make bench`."""
