"""The body of `mxworker publish --sample`: made up from the annotation of the handler that consumes the queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mxworker.errors import ConfigError

if TYPE_CHECKING:
    from mxworker.samples.sample import Sample


def sample_in(queue: str, app: str, flags: dict[str, Any]) -> Sample:
    """Load the application and return a sample for the handler of a queue.

    Raises AppLoadError, ConfigError when no handler consumes the queue, or NoSample.
    """
    from mxworker.cli.samples import sample_for
    from mxworker.config.overrides import AS_IN_CODE
    from mxworker.worker.loading import load, select

    handlers = select(load(app, flags["app_dir"], flags["insecure_app_dir"]), (), AS_IN_CODE)
    for handler in handlers:
        if handler.queue.name == queue:
            return sample_for(handler)
    known = ", ".join(sorted(handler.queue.name for handler in handlers))
    raise ConfigError(f"no handler of {app} consumes queue '{queue}'. Its queues: {known}.")
