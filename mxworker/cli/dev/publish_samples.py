"""`python -m mxworker.cli.dev.publish_samples`: publish one sample to each queue of an application, and say which.

`mxworker dev` starts it for the key p, since only another process may load the application. It reads its `Wanted` as a
line of JSON, so that no password is on a command line.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

from mxworker.amqp.publishing.publisher import Publisher
from mxworker.api.compilation import Handler
from mxworker.cli.dev.wanted import Wanted
from mxworker.cli.samples import sample_for
from mxworker.config.overrides import AS_IN_CODE
from mxworker.errors import ExitCode, MxWorkerError
from mxworker.samples.sample import Sample
from mxworker.system.child import bind_to_parent
from mxworker.system.interpreter import write_no_more_bytecode
from mxworker.system.log import say, set_up
from mxworker.system.printable import foreign
from mxworker.worker.loading import load, select

_CONNECT_WAIT_S = 5.0
_SHOWN_CHARACTERS = 160


def main() -> int:
    """Publish the samples that are wanted on stdin, and return the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    wanted = Wanted.taken(sys.stdin.readline())
    bind_to_parent(wanted.parent)
    set_up("warning", "text")
    write_no_more_bytecode()
    try:
        handlers = select(load(wanted.app, wanted.app_dir, wanted.may_be_insecure), wanted.queues, AS_IN_CODE)
        asyncio.run(_published(wanted, handlers))
    except MxWorkerError as error:
        say(f"nothing published: {error}")
        return ExitCode.RUNTIME
    return ExitCode.OK


async def _published(wanted: Wanted, handlers: Sequence[Handler]) -> None:
    """Publish a sample for each handler that has one, and say for each what became of it."""
    async with Publisher.connect(
        *wanted.urls,
        tls_ca=wanted.tls_ca,
        tls_cert=wanted.tls_cert,
        tls_key=wanted.tls_key,
        name="mxworker dev: samples",
        connect_wait_s=_CONNECT_WAIT_S,
    ) as publisher:
        for handler in handlers:
            queue = foreign(handler.queue.name)
            try:
                sample = sample_for(handler)
                await publisher.publish(sample.body, routing_key=handler.queue.name, content_type=sample.content_type)
            except MxWorkerError as error:
                say(f"nothing published to {queue}: {error}")
            else:
                say(f"published to {queue}: {_shown(sample)}")


def _shown(sample: Sample) -> str:
    text = foreign(sample.body.decode())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


if __name__ == "__main__":
    sys.exit(main())
