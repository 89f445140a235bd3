"""`python -m mxworker.devbroker`: the broker as a process of its own, until SIGTERM or Ctrl-C.

With `--dies-with` another program reads what it prints: one line of JSON with the `url`, or with the `error`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from mxworker.config.bounds import LOG_FORMATS, LOG_LEVELS
from mxworker.devbroker.process import PASSWORD, refuse_production
from mxworker.devbroker.serving import serve, warning
from mxworker.devbroker.settings import Account, Limits, Settings
from mxworker.errors import ConfigError, ExitCode
from mxworker.system.child import bind_to_parent
from mxworker.system.log import set_up


def main() -> int:
    """Serve, and return the exit code."""
    options = _parser().parse_args()
    set_up(options.log_level, options.log_format)
    to_people = options.dies_with is None
    if not to_people:
        bind_to_parent(options.dies_with)
    try:
        settings = _settings(options)
        refuse_production(os.environ)
        serve(
            settings,
            lambda url: print(warning(url) if to_people else json.dumps({"url": url}), flush=True),
            options.listening_fd,
        )
    except ConfigError as error:
        return _fail(str(error), to_people, error.exit_code)
    except (TypeError, ValueError) as error:
        return _fail(f"the limits cannot be used: {error}", to_people, ExitCode.USAGE)
    except OSError as error:
        said = f"the embedded broker cannot listen on {options.host}:{options.port}: {error}"
        return _fail(said, to_people, ExitCode.RUNTIME)
    return ExitCode.OK


def _fail(what: str, to_people: bool, code: ExitCode) -> ExitCode:
    if to_people:
        print(what, file=sys.stderr)
    else:
        print(json.dumps({"error": what}), flush=True)
    return code


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        host=options.host,
        port=options.port,
        account=Account(options.user, os.environ.get(PASSWORD, Account().password)),
        limits=Limits(**json.loads(options.limits)),
        control_path=options.control,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mxworker.devbroker", description="An AMQP 0-9-1 broker in memory.")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on")
    parser.add_argument("--port", type=int, default=5672, help="the port to listen on; 0 is any free one")
    parser.add_argument("--user", default="guest", help=f"the user; {PASSWORD} has the password, by default guest")
    parser.add_argument("--limits", default="{}", metavar="JSON", help='bounds, such as {"max_message_bytes": 1048576}')
    parser.add_argument("--control", metavar="PATH", help="where to listen for tests that move the clock")
    parser.add_argument("--log-level", default="info", choices=LOG_LEVELS, help="the lowest level to log on stderr")
    parser.add_argument("--log-format", default="auto", choices=LOG_FORMATS, help="auto: text on a terminal, else json")
    parser.add_argument("--dies-with", type=int, metavar="PID", help=argparse.SUPPRESS)
    parser.add_argument("--listening-fd", type=int, metavar="FD", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
