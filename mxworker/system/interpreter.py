"""The options of this Python interpreter, for a process that has to run with the same ones, and its bytecode."""

from __future__ import annotations

import os
import sys


def options() -> list[str]:
    """Return the command-line options that give another interpreter our flags, warning filters and -X options.

    Options from the environment are among them, because with -E or -I the other interpreter would not read it.
    """
    flags = sys.flags
    counted = {
        "d": flags.debug,
        "B": flags.dont_write_bytecode,
        "O": flags.optimize,
        "S": flags.no_site,
        "v": flags.verbose,
        "b": flags.bytes_warning,
        "q": flags.quiet,
        "I": flags.isolated,
        "E": flags.ignore_environment,
        "s": flags.no_user_site,
        "P": flags.safe_path,
        "u": getattr(sys.__stdout__, "write_through", False),
    }
    letters = [f"-{letter * count}" for letter, count in counted.items() if count]
    filters = [f"-W{text}" for text in sys.warnoptions]
    extras = [f"-X{name}" if value is True else f"-X{name}={value}" for name, value in sys._xoptions.items()]
    return letters + filters + extras


def write_no_more_bytecode() -> None:
    """Write no bytecode of modules that are imported from now on, here and in child processes.

    A cached file is known by size and by mtime in whole seconds (PEP 3147), so that an edit of equal size within the
    same second would go unnoticed. Call this before code that is being edited is imported, and after all other code,
    which would be compiled at each start.
    """
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
