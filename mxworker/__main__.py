"""`python -m mxworker` is the same as `mxworker`: what lies in the current directory takes no other module's place."""

import os
import sys

if sys.path[0] in ("", os.getcwd()) and not sys.flags.safe_path:  # noqa: PTH109 - pathlib need not be imported for it
    sys.path.append(sys.path.pop(0))  # where -m has put it; at the end it is where an application is found

from mxworker.cli import main

main()
