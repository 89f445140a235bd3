"""Benchmarks of mxworker beside other clients, in one run: `make bench`, or `python -m bench --help`.

A *scenario* (`scenarios/`) is one thing to measure. It has *entries*, which are measured in turn, in every round. An
entry of a contest is a *contender* with a *job*: the contender's program is started, does the job, and reports its
times. Our own contenders are in `ours/`, the others in `rivals/`. What their programs share is in `client/`, which
needs the standard library alone, because rivals run in environments of their own. `runner.py` runs the rounds,
`report/` makes the table, the pictures and the file of results. `wire/` is a server that costs next to nothing.

Figures depend on the machine and on its load; the ratios of one run are what counts.
"""
