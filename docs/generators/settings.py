"""Every setting, made from the settings tree."""

from __future__ import annotations

from docs.generators.markdown import page as page_of
from docs.generators.markdown import table
from mxworker.cli.config.options import LEAVES
from mxworker.config.leaf import Leaf

_INTRODUCTION = """\
Every setting has one name, and can be given in four ways. This is `publisher.max-in-flight`:

| where | how |
|---|---|
| a flag of `run` and `dev` | `--publisher-max-in-flight 500` |
| an environment variable | `MXWORKER_PUBLISHER_MAX_IN_FLIGHT=500` |
| a configuration file | `max-in-flight = 500` in the table `[publisher]` |
| code | `Handlers(publisher=PublisherSettings(max_in_flight=500))`; see below |

A flag counts more than a variable, a variable more than the file, the file more than a profile, and a profile more
than the code. What nobody sets has the default. `mxworker config show` prints each value and where it comes from.

Code can set what concerns handlers, as options of `consume` and `consume_batch`, and the publisher and the pool of a
worker: `Handlers(publisher=PublisherSettings(...), pool=PoolSettings(...))`. Everything else concerns the start of
the service, before the code is loaded. `Publisher.connect` takes `PublisherSettings` outside a worker.

## The configuration file

`mxworker.toml` in the current directory is read, or the table `[tool.mxworker]` in `pyproject.toml`; `--config FILE`
names another file. The start lines name the file. It is read once, so a reload does not read it again. `mxworker
config defaults > mxworker.toml` writes one with every setting, all of them commented out.

```toml
workers = 4
drain-timeout = "1m"
broker-url-file = "broker-url"      # relative to this file

[publisher]
compression = "gzip"

[queues."orders"]                   # for the handlers of one queue
concurrency = 8
handler-timeout = "2m"
```

A key that does not exist is refused, with the nearest one; so is a value outside its range. The file is refused when
other users could change it, because it chooses what runs; `--insecure-app-dir`, as a flag or variable, accepts that.
When it holds a password in `broker-url`, it is refused when everybody may read it.

A table of a queue has the settings of the section *Handlers*. They replace those of the file for all queues; flags
and variables replace both. A queue that the application does not consume is an error. In a file with such tables,
`exclude-queues` chooses among the queues, and not `queues`, which would be a second value of that name.

`--profile NAME` starts from settings that mxworker ships, which are the files in `conf/`: `development`,
`production`, or `throughput`, which has the values of the performance guide."""


def page() -> str:
    """Return the page."""
    sections = dict.fromkeys(leaf.section for leaf in LEAVES)
    return page_of("Settings", _INTRODUCTION, *(part for section in sections for part in _section(section)))


def _section(section: str) -> tuple[str, str]:
    rows = [
        (_key(leaf), _default(leaf), leaf.kind.allowed, leaf.sentence) for leaf in LEAVES if leaf.section == section
    ]
    return f"## {section}", table(("key", "default", "allowed", "what it does"), rows)


def _key(leaf: Leaf) -> str:
    return f"`{leaf.key}`" + (f" (`{leaf.short}`)" if leaf.short else "")


def _default(leaf: Leaf) -> str:
    text = leaf.text_of(leaf.default)
    return (leaf.unset or "none") if text is None else f"`{text}`"
