"""Run `mxworker` with workers that count outcomes alone: `python -m bench.without_metrics run APP ...`.

`bench/consume.py` compares it with mxworker as it is, so that the cost of metrics is measured in one run.
"""

from functools import partial

from mxworker.cli import main
from mxworker.worker import assembly

assembly.ProcessScope = partial(assembly.ProcessScope, has_metrics=False)  # type: ignore[misc, assignment]
main()
