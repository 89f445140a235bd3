"""The kinds of settings: which values each takes, and how they are written. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from mxworker.config.bounds import MAX_DURATION_S
from mxworker.config.units import BYTES_PER_UNIT, SECONDS_PER_UNIT, parse_duration_s, parse_size_bytes
from mxworker.errors import ConfigError

_MAX_SIZE_BYTES = 1024 * 1024**3


class Kind(Protocol):
    """The values of a setting. A value is what the dataclass holds, and a text is what an operator writes."""

    @property
    def metavar(self) -> str:
        """What stands for a value in `--help`."""

    @property
    def allowed(self) -> str:
        """The values that are allowed, as in "must be ..."."""

    def parse(self, text: str) -> Any:
        """Return the value that a text means. Raises ConfigError when it means none, whatever the range."""

    def allows(self, value: Any) -> bool:
        """Tell whether a value has the right type and is in the range."""

    def write(self, value: Any) -> str:
        """Return the text of a value, for which `parse` returns the value."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole number."""

    at_least: int
    at_most: int
    metavar: str = "N"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"a whole number from {self.at_least} to {self.at_most}"

    def parse(self, text: str) -> int:
        """Return the number."""
        if not re.fullmatch(r"-?\d{1,18}", text.strip(), re.ASCII):
            raise ConfigError(f"'{text}' is not a whole number.")
        return int(text)

    def allows(self, value: Any) -> bool:
        """Tell whether it is an int in the range."""
        return isinstance(value, int) and not isinstance(value, bool) and self.at_least <= value <= self.at_most

    def write(self, value: int) -> str:
        """Return the digits."""
        return str(value)


@dataclass(frozen=True, slots=True)
class Shared:
    """A number for the whole service, of which each worker gets an equal share."""

    total: int

    def of(self, workers: int) -> int:
        """Return the share of one of so many workers, at least 1."""
        return max(1, self.total // workers)


@dataclass(frozen=True, slots=True)
class WholeOrShared:
    """A whole number, or `N/workers`, which divides N by the number of workers."""

    at_least: int
    at_most: int
    metavar: str = "N"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"{Whole(self.at_least, self.at_most).allowed}, or such a number with '/workers' after it"

    def parse(self, text: str) -> int | Shared:
        """Return the number, or what is shared."""
        number, slash, divisor = text.partition("/")
        if slash and divisor.strip() != "workers":
            raise ConfigError(f"'{text}' is neither a whole number nor one with '/workers' after it.")
        whole = Whole(self.at_least, self.at_most).parse(number)
        return Shared(whole) if slash else whole

    def allows(self, value: Any) -> bool:
        """Tell whether the number is in the range."""
        return Whole(self.at_least, self.at_most).allows(value.total if isinstance(value, Shared) else value)

    def write(self, value: int | Shared) -> str:
        """Return the digits."""
        return f"{value.total}/workers" if isinstance(value, Shared) else str(value)


@dataclass(frozen=True, slots=True)
class WholeOrAuto:
    """A whole number, or `auto`, which is None."""

    at_least: int
    at_most: int
    metavar: str = "N|auto"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"'auto' or {Whole(self.at_least, self.at_most).allowed}"

    def parse(self, text: str) -> int | None:
        """Return the number, or None."""
        if text.strip() == "auto":
            return None
        try:
            return Whole(self.at_least, self.at_most).parse(text)
        except ConfigError:
            raise ConfigError(f"'{text}' is neither 'auto' nor a whole number.") from None

    def allows(self, value: Any) -> bool:
        """Tell whether it is None, or in the range."""
        return value is None or Whole(self.at_least, self.at_most).allows(value)

    def write(self, value: int | None) -> str:
        """Return the word or the digits."""
        return "auto" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Factor:
    """A number that need not be whole."""

    at_least: float
    at_most: float
    metavar: str = "FACTOR"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"a number from {self.at_least:g} to {self.at_most:g}"

    def parse(self, text: str) -> float:
        """Return the number."""
        if not re.fullmatch(r"-?\d{1,12}(\.\d{1,12})?", text.strip(), re.ASCII):
            raise ConfigError(f"'{text}' is not a number.")
        return float(text)

    def allows(self, value: Any) -> bool:
        """Tell whether it is a number in the range."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.at_least <= value <= self.at_most

    def write(self, value: float) -> str:
        """Return the digits."""
        return f"{value:g}"


@dataclass(frozen=True, slots=True)
class Duration:
    """A time in seconds. `at_least` of 0 with `may_be_zero` off means any time above 0."""

    at_least_s: float = 0.0
    at_most_s: float = MAX_DURATION_S
    may_be_zero: bool = False
    is_whole: bool = False
    """Whether it must be a whole number of seconds."""
    why: str = ""
    """Why the range is what it is."""
    metavar: str = "DURATION"

    @property
    def allowed(self) -> str:
        """The range."""
        what = "a number of whole seconds" if self.is_whole else "a time"
        most = f"at most {self.write(self.at_most_s)}{': ' if self.why else ''}{self.why}"
        if self.at_least_s > 0 or self.may_be_zero:
            return f"{what} of at least {self.write(self.at_least_s)} and {most}"
        return f"{what} above 0 and {most}"

    def parse(self, text: str) -> float:
        """Return the seconds."""
        return parse_duration_s(text)

    def allows(self, value: Any) -> bool:
        """Tell whether it is a number of seconds in the range; NaN never is."""
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        if not self.at_least_s <= value <= self.at_most_s or (value == 0 and not self.may_be_zero):
            return False
        return not self.is_whole or value == int(value)

    def write(self, value: float) -> str:
        """Return the time in the largest unit in which it is a whole number, hours at most."""
        for unit in ("h", "m", "s", "ms"):
            count = round(value / SECONDS_PER_UNIT[unit], 9)
            if count == int(count) and (count or unit == "s"):
                return f"{int(count)}{unit}"
        return f"{value:.9f}".rstrip("0") + "s"


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes."""

    at_least_bytes: int = 1
    at_most_bytes: int = _MAX_SIZE_BYTES
    metavar: str = "SIZE"

    @property
    def allowed(self) -> str:
        """The range."""
        return f"a size from {self.write(self.at_least_bytes)} to {self.write(self.at_most_bytes)}"

    def parse(self, text: str) -> int:
        """Return the bytes."""
        return parse_size_bytes(text)

    def allows(self, value: Any) -> bool:
        """Tell whether it is a whole number of bytes in the range."""
        return Whole(self.at_least_bytes, self.at_most_bytes).allows(value)

    def write(self, value: int) -> str:
        """Return the size in the largest unit in which it is a whole number."""
        for unit in ("GiB", "MiB", "KiB", "GB", "MB", "kB"):
            if value % BYTES_PER_UNIT[unit.lower()] == 0:
                return f"{value // BYTES_PER_UNIT[unit.lower()]}{unit}"
        return f"{value}B"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]
    metavar: str

    @property
    def allowed(self) -> str:
        """The words."""
        return " or ".join(filter(None, (", ".join(f"'{word}'" for word in self.words[:-1]), f"'{self.words[-1]}'")))

    def parse(self, text: str) -> str:
        """Return the text; `allows` compares it."""
        return text.strip()

    def allows(self, value: Any) -> bool:
        """Tell whether it is one of the words."""
        return isinstance(value, str) and value in self.words

    def write(self, value: str) -> str:
        """Return the word."""
        return value


@dataclass(frozen=True, slots=True)
class Switch:
    """True or false. `has_off` tells whether there is a flag `--no-...` that means false."""

    has_off: bool = True
    metavar: str = ""
    allowed: str = "true or false"

    def parse(self, text: str) -> bool:
        """Return the meaning of true, yes, on, 1, and their opposites."""
        word = text.strip().lower()
        if word in ("true", "yes", "on", "1", "t", "y"):
            return True
        if word in ("false", "no", "off", "0", "f", "n"):
            return False
        raise ConfigError(f"'{text}' is neither true nor false.")

    def allows(self, value: Any) -> bool:
        """Tell whether it is a bool."""
        return isinstance(value, bool)

    def write(self, value: bool) -> str:
        """Return the word."""
        return "true" if value else "false"


@dataclass(frozen=True, slots=True)
class Text:
    """A text. With `is_file` it is the path of a file, and with `is_directory` that of a directory that exists."""

    metavar: str = "TEXT"
    is_file: bool = False
    is_directory: bool = False

    @property
    def is_path(self) -> bool:
        """Whether a relative path in a configuration file is looked for beside that file."""
        return self.is_file or self.is_directory

    @property
    def allowed(self) -> str:
        """What it is."""
        return "a path" if self.is_path else "a text that is not empty"

    def parse(self, text: str) -> str:
        """Return the text itself."""
        return text

    def allows(self, value: Any) -> bool:
        """Tell whether it is a text that is not empty and has no zero bytes."""
        return isinstance(value, str) and bool(value.strip()) and "\0" not in value

    def write(self, value: str) -> str:
        """Return the text itself."""
        return value


@dataclass(frozen=True, slots=True)
class Texts:
    """Several texts, as a tuple. `separator` is what stands between them in one text: None is blank space."""

    metavar: str
    separator: str | None = None

    @property
    def is_repeated(self) -> bool:
        """Whether a flag is given once for each of the texts."""
        return self.separator is None

    @property
    def allowed(self) -> str:
        """What they are."""
        return "a list of texts that are not empty"

    def parse(self, text: str) -> tuple[str, ...]:
        """Return the texts, without those that are empty."""
        return tuple(part.strip() for part in text.split(self.separator) if part.strip())

    def allows(self, value: Any) -> bool:
        """Tell whether it is a tuple of texts."""
        return isinstance(value, tuple) and all(Text().allows(each) for each in value)

    def write(self, value: tuple[str, ...]) -> str:
        """Return the texts as one."""
        return (self.separator or " ").join(value)
