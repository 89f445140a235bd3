"""The format of `--help`: options in sections with defaults and environment variables, then exit codes and examples.

Help texts fit a terminal of 80 columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from mxworker.errors import ExitCode

WIDTH = 80
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH}

EXIT_CODES: Mapping[int, str] = {
    ExitCode.OK: "the service drained, or with --burst its queues are empty",
    ExitCode.RUNTIME: "an error at run time",
    ExitCode.USAGE: "a usage or configuration error, such as a missing broker URL",
    ExitCode.APP_LOAD: "the application cannot be loaded",
    ExitCode.BROKER: "the broker refused the service or was unreachable at start",
    ExitCode.NEVER_READY: "no worker ever became ready",
    ExitCode.DRAIN_TIMEOUT: "handlers were still running when the drain timed out",
    ExitCode.FORCED: "forced by Ctrl-C",
}
ASKING_EXIT_CODES: Mapping[int, str] = {
    ExitCode.OK: "done",
    ExitCode.RUNTIME: "the request was refused, or no service answers",
    ExitCode.USAGE: "a usage error, or it is not clear which service is meant",
}

_OTHER = "Other options"


class Option(click.Option):
    """An option with a section of the help."""

    def __init__(self, *args: Any, section: str = _OTHER, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.section = section


class Command(click.Command):
    """A command whose help shows the options in sections, in the order of the first option of each."""

    def __init__(
        self,
        *args: Any,
        exit_codes: Mapping[int, str] = ASKING_EXIT_CODES,
        examples: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.context_settings = {**CONTEXT, **self.context_settings}
        self.exit_codes = exit_codes
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line. A mistake in it that leaves something out is told with an example."""
        try:
            return super().parse_args(ctx, args)
        except click.MissingParameter as error:
            attempt = f"\n  Try:  {self.examples[0]}" if self.examples else ""
            raise click.UsageError(f"{error.format_message()}{attempt}", ctx) from None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section."""
        _write_options(self, ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog, the exit codes and the examples."""
        super().format_epilog(ctx, formatter)
        _write_end(formatter, self.exit_codes, self.examples)


class Group(Command, click.Group):
    """A group of commands, whose help looks as theirs does."""

    command_class = Command

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section, and the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def _write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
        if record is not None:
            sections.setdefault(getattr(parameter, "section", _OTHER), []).append(record)
    if _OTHER in sections:  # the section with --help comes last
        sections[_OTHER] = sections.pop(_OTHER)
    for section, records in sections.items():
        with formatter.section("Options" if len(sections) == 1 else section):
            formatter.write_dl(records, col_max=26)


def _write_end(formatter: click.HelpFormatter, exit_codes: Mapping[int, str], examples: Sequence[str]) -> None:
    with formatter.section("Exit codes"):
        formatter.write_dl([(str(int(code)), meaning) for code, meaning in exit_codes.items()])
    if examples:
        with formatter.section("Examples" if len(examples) > 1 else "Example"):
            formatter.write("".join(f"  {example}\n" for example in examples))


def option(flag: str, *short: str, section: str = _OTHER, **settings: Any) -> Callable[[Any], Any]:
    """Return an option with the environment variable MXWORKER_<FLAG>, which --help shows."""
    variable = "MXWORKER_" + flag.removeprefix("--").replace("-", "_").upper()
    return click.option(*short, flag, cls=Option, section=section, envvar=variable, show_envvar=True, **settings)
