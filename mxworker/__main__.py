"""`python -m mxworker` is the same as `mxworker`: a file in the current directory shadows no installed module."""

import os
import sys

if sys.path[0] in ("", os.getcwd()) and not sys.flags.safe_path:  # noqa: PTH109 - pathlib need not be imported for it
    sys.path.append(sys.path.pop(0))  # -m puts the directory first; last, an application is still found in it

from mxworker.cli import main

main()
