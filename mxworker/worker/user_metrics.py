"""The application's own metrics: what it counts with prometheus_client is kept in files, which the observer adds up.

prometheus_client keeps the values of each process in memory-mapped files, named after the process. Here they are named
after the slot of the worker, so a worker that is started again goes on counting where its predecessor stopped, even
one that was killed, and the number of files does not grow.

Call `keep_user_metrics` before any code of the application is loaded: a metric chooses its kind of value when it is
made.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from mxworker.system.forks import ThisProcess

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


def keep_user_metrics(directory: str, process: str) -> None:
    """Keep the metrics of this process in `directory`, in files named after `process`.

    At most one process of that name lives at a time. Its counters go on; its gauges start anew, since they told how
    the former process was. What a process counts that the application forks itself is lost.
    """
    os.environ[_DIRECTORY] = directory
    from prometheus_client import values  # the variable is looked for in the import

    def name() -> str:
        return f"{process}-{os.getpid()}" if ThisProcess.is_forked else process

    Path(directory).mkdir(mode=0o700, exist_ok=True)  # whoever cleans up /tmp may have removed it
    for gauge in Path(directory).glob(f"gauge_*_{process}.db"):
        gauge.unlink(missing_ok=True)
    values.ValueClass = cast(Any, values).MultiProcessValue(name)
