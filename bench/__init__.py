"""Benchmarks of mxworker and its rivals in one run. They need a broker, which `make bench` starts."""
