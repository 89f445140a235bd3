"""The sample of a handler, for commands that publish one. The code of the handler is read from its file."""

from __future__ import annotations

import inspect

from mxworker.api.compilation import Handler
from mxworker.samples.sample import Sample, sample_of


def sample_for(handler: Handler) -> Sample:
    """Return a sample that the handler can decode. Raises NoSample."""
    return sample_of(handler.payload, handler.decode, _source_of(handler))


def _source_of(handler: Handler) -> str:
    """Return the text of the handler's code, "" when it is not known, as for code that was compiled."""
    if handler.batch is not None:  # the function takes a list of payloads
        return ""
    try:
        return inspect.getsource(inspect.unwrap(handler.function))
    except (OSError, TypeError, ValueError):
        return ""
