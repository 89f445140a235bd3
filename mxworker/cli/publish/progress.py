"""The progress bar of `mxworker publish`, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OnProgress = Callable[[int, int], None]


@contextmanager
def progress(messages: int | None, size_bytes: int | None) -> Iterator[OnProgress]:
    """Show a bar on stderr during the block; yield the function that gets messages and bytes that are done with.

    The whole is `size_bytes` of a file, or else `messages`; the bar has no end when neither is known.
    """
    if not sys.stderr.isatty():
        yield lambda done, read_bytes: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

    columns: tuple[ProgressColumn, ...] = (
        TextColumn("published"),
        TextColumn("{task.fields[done]:,}"),
        BarColumn(),
        TimeRemainingColumn(),
    )
    if size_bytes is None and messages is not None:
        columns = (
            TextColumn("published"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
        )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        whole = messages if size_bytes is None else size_bytes
        task = bar.add_task("", total=whole, done=0)
        count = 0

        def on_progress(done: int, read_bytes: int) -> None:
            nonlocal count
            count += done
            bar.update(task, advance=done if size_bytes is None else read_bytes, done=count)

        yield on_progress
