"""Where the settings of a command come from: flags, then environment variables, a file, a profile, and the defaults.

Click looks for a value in this order itself. The values of the file and of the profile are its `default_map`, which the
callbacks of `--config` and `--profile` make before other options are read. A fault in a file is kept until the log is
set up, and raised by `check`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from mxworker.cli.config.options import BY_KEY, LeafOption
from mxworker.cli.help import Option
from mxworker.config.leaf import Leaf
from mxworker.errors import ConfigError
from mxworker.system.printable import foreign

if TYPE_CHECKING:
    from mxworker.cli.config.document import Document

_KEY = f"{__name__}.sources"
_SECTION = "Configuration"
_FILE_VARIABLE = "MXWORKER_CONFIG"
_ALL_THE_SAME = BY_KEY["insecure-app-dir"]


class Rank(IntEnum):
    """How strong a source is: a value of a stronger one counts."""

    DEFAULT = 0
    FILE = 1
    """A file or a profile."""
    VARIABLE = 2
    FLAG = 3


_RANKS = {
    ParameterSource.DEFAULT_MAP: Rank.FILE,
    ParameterSource.ENVIRONMENT: Rank.VARIABLE,
    ParameterSource.COMMANDLINE: Rank.FLAG,
}


@dataclass(slots=True)
class Sources:
    """The file and the profile of one command."""

    file: Document | None = None
    path: Path | None = None
    profile: Document | None = None
    fault: ConfigError | None = None

    @property
    def documents(self) -> list[Document]:
        """The profile and the file; a later one counts more."""
        return [each for each in (self.profile, self.file) if each is not None]

    @property
    def names(self) -> str:
        """What was found, for people; empty when nothing was."""
        return ", ".join(each.source for each in reversed(self.documents))

    def document_of(self, leaf: Leaf) -> Document | None:
        """Return the document whose value for a setting counts."""
        return next((each for each in reversed(self.documents) if leaf.key in each.values), None)

    def queues(self) -> dict[str, dict[str, Any]]:
        """Return the values for handlers by queue, and then by the key of their leaf."""
        merged: dict[str, dict[str, Any]] = {}
        for document in self.documents:
            for queue, values in document.queues.items():
                merged.setdefault(queue, {}).update(values)
        return merged


def sources() -> Sources:
    """Return the sources of the command that runs now."""
    return _sources(click.get_current_context())


def _sources(ctx: click.Context) -> Sources:
    kept: Sources = ctx.meta.setdefault(_KEY, Sources())
    return kept


def configuration_options() -> list[click.Parameter]:
    """Return the options that name a file and a profile."""
    return [
        Option(
            ["--config"],
            type=click.Path(),
            metavar="FILE",
            is_eager=True,
            callback=_use_file,
            section=_SECTION,
            envvar=_FILE_VARIABLE,
            show_envvar=True,
            show_default="mxworker.toml, or pyproject.toml with [tool.mxworker]",
            help="A file with settings, in TOML format. 'mxworker config defaults' writes one.",
        ),
        Option(
            ["--profile"],
            metavar="NAME",
            is_eager=True,
            callback=_use_profile,
            section=_SECTION,
            envvar="MXWORKER_PROFILE",
            show_envvar=True,
            show_default="none",
            help="Start from a set of settings that mxworker ships: development, production or throughput.",
        ),
    ]


def _use_file(ctx: click.Context, _: click.Parameter, path: str | None) -> str | None:
    from mxworker.cli.config import files

    kept = _sources(ctx)
    if not ctx.resilient_parsing:
        try:
            found = files.found() if path is None else files.named(path)
        except ConfigError as error:
            kept.fault = kept.fault or error
        else:
            kept.file, kept.path = found or (None, None)
    _offer(ctx, kept)
    return path


def _use_profile(ctx: click.Context, _: click.Parameter, name: str | None) -> str | None:
    from mxworker.cli.config import files

    kept = _sources(ctx)
    if name is not None:
        try:
            kept.profile = files.profile(name)
        except ConfigError as error:
            kept.fault = kept.fault or error
    _offer(ctx, kept)
    return name


def _offer(ctx: click.Context, kept: Sources) -> None:
    """Let click take what no flag and no variable says from the documents, for the settings that the command has."""
    values = {key: value for each in kept.documents for key, value in each.values.items()}
    own = [option.leaf for option in ctx.command.params if isinstance(option, LeafOption)]
    ctx.default_map = {leaf.name: values[leaf.key] for leaf in own if leaf.key in values}


def check() -> None:
    """Raise the ConfigError of a file or a profile, or one for a file that others could change or read."""
    ctx = click.get_current_context()
    kept = _sources(ctx)
    if kept.fault is not None:
        raise kept.fault
    if kept.file is not None and kept.path is not None:
        is_accepted = bool(ctx.params.get(_ALL_THE_SAME.name)) and rank(_ALL_THE_SAME) > Rank.FILE
        _check_access(kept.path, kept.file, is_accepted)


def of_directory() -> Document | None:
    """Return the document for a command that has no option for it, None when there is none. Raises ConfigError."""
    from mxworker.cli.config import files

    path = os.environ.get(_FILE_VARIABLE)
    found = files.named(path) if path else files.found()
    if found is None:
        return None
    accepted = os.environ.get(_ALL_THE_SAME.variable) or "no"
    _check_access(found[1], found[0], is_accepted=_ALL_THE_SAME.kind.parse(accepted))
    return found[0]


def _check_access(path: Path, file: Document, is_accepted: bool) -> None:
    from mxworker.brokers import has_password
    from mxworker.system.file_access import changer_of
    from mxworker.system.secret_files import check_secret
    from mxworker.worker.code_access import refusal

    try:
        access = changer_of(path)
    except OSError as error:
        raise ConfigError(f"'{foreign(path)}' cannot be checked for who may write to it: {error.strerror}.") from error
    if access is not None and not is_accepted:
        raise ConfigError(refusal(access, f"the settings in {foreign(path)}"))
    if access is None and any(map(has_password, file.values.get("broker-url", ()))):
        check_secret(f"broker-url in {foreign(path)}", str(path))


def rank(leaf: Leaf) -> Rank:
    """Return how strong the source of a setting's value is."""
    ctx = click.get_current_context(silent=True)
    source = None if ctx is None else ctx.get_parameter_source(leaf.name)
    return Rank.DEFAULT if source is None else _RANKS.get(source, Rank.DEFAULT)


def source_of(leaf: Leaf) -> str:
    """Return where the value of a setting comes from, as it is shown to the operator."""
    document = sources().document_of(leaf)
    match rank(leaf):
        case Rank.FLAG:
            return leaf.flag
        case Rank.VARIABLE:
            return leaf.variable
        case Rank.FILE if document is not None:
            return document.place_of(*leaf.key.split("."))
        case _:
            return "default"


def name_of(leaf: Leaf) -> str:
    """Return the name by which the operator has given a setting."""
    if rank(leaf) is Rank.FILE:
        return f"{leaf.key} in {source_of(leaf)}"
    return leaf.variable if rank(leaf) is Rank.VARIABLE else leaf.flag
