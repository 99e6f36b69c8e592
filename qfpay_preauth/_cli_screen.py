"""What every command says and how: the console, JSON lines, exit codes, the question before money moves.

Data goes to stdout, everything else (questions, warnings, errors) to stderr. No secret is ever an argument of these.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import sys
from collections.abc import Mapping, Sequence, Set
from datetime import datetime, timedelta
from typing import IO, Any

from attrs import fields, has
from rich.console import Console, RenderableType
from rich.text import Text

from qfpay_preauth._money import EXPONENTS
from qfpay_preauth._settings import Credentials, Hidden

EXIT_OK = 0
"""Done."""
EXIT_NO = 1
"""Failed or called off: no money moved by this command."""
EXIT_USAGE = 2
"""The command, or the configuration, cannot work as it was given; nothing was sent."""
EXIT_REFUSED = 3
"""Refused by our books, declined by the gateway, or the books differ."""
EXIT_DOUBT = 4
"""The outcome is not known, or doubts are left: money may have moved."""
EXIT_INTERRUPTED = 130
"""Ctrl-C; what is known about the money was said on stderr."""

PROSE_WIDTH = 80


class UsageError(Exception):
    """The command cannot run as it was given; the text says what to do."""


class FailedError(Exception):
    """It could not be done, and no money moved; the text says what to do."""


class CalledOffError(FailedError):
    """The person at the terminal said no; nothing was sent."""


class Screen(Console):
    """A console whose broken pipe is an error like others (rich would leave from inside a task)."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def show(self, renderable: RenderableType, width: int | None = None) -> None:
        """Print, without the blanks that rich pads lines with."""
        for line in self.render_lines(renderable, self.options.update(width=width or self.width), pad=False):
            text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
            text.rstrip()
            self.print(text, soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        """A paragraph, at most 80 wide."""
        self.show(Text(text, style), min(self.width, PROSE_WIDTH))


def shown(text: str) -> str:
    """Printable: what could move the cursor or colour the terminal is escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def money(minor: int, currency: str, exponents: Mapping[str, int] | None = None) -> str:
    """Minor units as people read them: `HKD 1,234.50`; as they are where nobody has stated the decimals."""
    places = (exponents or {}).get(currency, EXPONENTS.get(currency))
    if places is None:
        return f"{currency} {minor} (minor units)"
    whole, part = divmod(abs(minor), 10**places)
    decimals = f".{part:0{places}d}" if places else ""
    return f"{currency} {'-' if minor < 0 else ''}{whole:,}{decimals}"


def fail(text: str, code: int = EXIT_USAGE) -> int:
    """One line on stderr; the exit code, to be returned."""
    say_aside(" ".join(text.split()))
    return code


def hush(stream: IO[str] | None) -> None:
    """Its reader has left or its disk is full: nothing more can be said there, not even at exit."""
    with contextlib.suppress(OSError, AttributeError):  # there may be no stream, or one without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]


def hush_stdout() -> None:
    """Nobody reads the data any more."""
    hush(sys.stdout)


def say(text: str) -> None:
    """A line on stdout, flushed.

    Raises:
        OSError: it could not be written (a full disk, a reader that left).
    """
    if sys.stdout is not None:  # no stdout at all: nobody listens
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def say_aside(text: str) -> None:
    """A line on stderr, for people (or a JSON object as it is); whoever closed it still gets the exit code."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(shown(text) + "\n")
        sys.stderr.flush()
    except OSError:
        hush(sys.stderr)


# ------------------------------------------------------------------------------------------------ JSON


def emit_json(value: object, stream: IO[str] | None = None) -> None:
    """One JSON object on a line of its own, on stdout, flushed.

    Datetimes become ISO 8601 with their zone, timedeltas seconds, enums their values, attrs values objects. ASCII only,
    so that no terminal or locale can spoil it. A secret becomes `"***"`.

    Raises:
        TypeError: something that has no place in an answer.
        OSError: it could not be written (a full disk, a reader that left).
    """
    out = sys.stdout if stream is None else stream
    if out is not None:  # no stdout at all: nobody listens
        out.write(json.dumps(plain(value), allow_nan=False) + "\n")
        out.flush()


def emit_json_aside(value: object) -> None:
    """One JSON object on stderr: an error or a warning for machines."""
    say_aside(json.dumps(plain(value), allow_nan=False))


def plain(value: object) -> Any:
    """`value` as JSON knows it."""
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, Hidden | Credentials):
        return "***"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, datetime | timedelta):
        return _time(value)
    return _nested(value)


def _time(value: datetime | timedelta) -> str | float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if value.utcoffset() is None:
        raise TypeError("a time without zone cannot be shown")
    return value.isoformat()


def _nested(value: object) -> Any:
    kind: type[Any] = type(value)
    if has(kind):
        return {each.name: plain(getattr(value, each.name)) for each in fields(kind)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, Sequence | Set) and not isinstance(value, bytes | bytearray):
        return [plain(each) for each in value]
    raise TypeError(f"{kind.__name__} cannot be shown as JSON")


# ------------------------------------------------------------------------------------------------ the question


def on_terminal() -> bool:
    """Whether a person can be asked: they see stderr and can type."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def confirm(what: str, *, yes: bool) -> None:
    """Ask on the terminal, unless `yes`.

    Raises:
        UsageError: there is nobody to ask.
        CalledOffError: the answer was not yes.
    """
    if yes:
        return
    if not on_terminal():
        raise UsageError(f"{what}: there is no terminal to ask on. Add --yes if this is meant; nothing was done.")
    sys.stderr.write(f"{shown(what)}? Type yes to go on: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("yes", "y"):
        raise CalledOffError("Called off: nothing was done.")


def confirm_money(environment: str, what: str, *, yes: bool) -> None:
    """Ask before money moves in production; elsewhere, and with `yes`, go on.

    Args:
        environment: the profile's.
        what: the deed with its numbers, without a question mark ("Capture 200.00 HKD of …").
        yes: `--yes` was given.

    Raises:
        UsageError: in production, without a terminal and without `--yes`.
        CalledOffError: the answer was not yes.
    """
    if environment == "production":
        confirm(f"PRODUCTION: {what}", yes=yes)
