"""The options of this Python interpreter, for a process that has to run with the same ones."""

from __future__ import annotations

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
