"""`python -m mxworker.testing.service_process PID ...`: does what `mxworker ...` does, and ends with the process PID.

So no service outlives the test run that has started it, however the run ends.
"""

from __future__ import annotations

import runpy
import sys

from mxworker.system.child import bind_to_parent

if __name__ == "__main__":
    bind_to_parent(int(sys.argv.pop(1)))
    runpy.run_module("mxworker", run_name="__main__", alter_sys=True)
