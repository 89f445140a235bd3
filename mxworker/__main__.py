"""`python -m mxworker` is the same as `mxworker`."""

from mxworker.cli import main

main()
