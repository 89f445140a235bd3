"""mxworker without a socket: bytes go into the transport, and bytes come out of it, in one process.

So nothing but the client's own work is measured, and the instructions can be counted (`counting.py`): their number does
not depend on the load of the machine, so it shows the effect of a small change. `python -m bench.in_process --help`
"""
