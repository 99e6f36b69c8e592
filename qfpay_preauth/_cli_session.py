"""What the commands share: their common options, the values they read strictly, and one open set of clients."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any

from attrs import frozen
from cyclopts import Parameter

from qfpay_preauth._cli_screen import Screen, UsageError, emit_json, emit_json_aside, money, plain, say_aside, shown
from qfpay_preauth._client import PreauthClient
from qfpay_preauth._profile import Profile, load_profile, open_clients
from qfpay_preauth._profile_file import nearest
from qfpay_preauth.errors import ConfigurationError


@Parameter(name="*", group="Common")
@frozen
class Options:
    """What every command takes.

    Args:
        profile: A profile of qfpay-preauth.toml, or path/to/file.toml[:NAME]; without it, the QFPAY_* variables count.
        account: Which of the profile's accounts; needed only where it has several and no default_account.
        json: One JSON object a line on stdout, errors as one on stderr.
    """

    profile: str | None = None
    account: str | None = None
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False


DEFAULTS = Options()

Json = Annotated[bool, Parameter(negative=(), show_default=False, help="One JSON object on stdout, errors on stderr.")]
Yes = Annotated[bool, Parameter(negative=(), show_default=False, help="Do not ask before it is done.")]


# ------------------------------------------------------------------------------------------------ values


def _whole(_: object, tokens: Any) -> int:
    text: str = tokens[0].value
    # cyclopts' own int would round 12.50 to 12, and read 0x10 and 1_000
    if not re.fullmatch(r"[0-9]{1,11}", text):
        raise ValueError(
            f"an amount is a whole number of minor units (20000 is HKD 200.00), 1 to 11 digits, not {text[:40]!r}."
        )
    return int(text)


def _moment(_: object, tokens: Any) -> datetime:
    text: str = tokens[0].value
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.utcoffset() is None:
        raise ValueError(f"a time is like 2026-11-22T18:00:00+08:00, with its zone, not {text[:40]!r}.")
    return moment


_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _span(_: object, tokens: Any) -> timedelta:
    text: str = tokens[0].value
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if found is None:
        raise ValueError(f"a length of time is like 90m, 36h or 2d, not {text[:40]!r}.")
    return timedelta(seconds=int(found[1]) * _UNITS[found[2]])


Amount = Annotated[int, Parameter(converter=_whole, allow_leading_hyphen=True)]
Moment = Annotated[datetime, Parameter(converter=_moment)]
Span = Annotated[timedelta, Parameter(converter=_span)]


# ------------------------------------------------------------------------------------------------ the session


@frozen
class Session:
    """Open clients, and how to speak about what they do."""

    profile: Profile
    options: Options
    clients: Mapping[str, PreauthClient]
    screen: Screen

    @property
    def client(self) -> PreauthClient:
        """The one that the command is about."""
        return self.clients[account_of(self.profile, self.options)]

    def chosen(self) -> dict[str, PreauthClient]:
        """All of them, or the one that `--account` names."""
        if self.options.account is None:
            return dict(self.clients)
        name = account_of(self.profile, self.options)
        return {name: self.clients[name]}

    def show(self, value: object, *lines: str, **more: object) -> None:
        """The value (and more beside it) as an object for machines, or the lines for people."""
        if self.options.json:
            emit_json({**more, **plain(value)})
        else:
            for line in lines:
                self.screen.print(shown(line), markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """A line that only people need."""
        if not self.options.json:
            self.show({}, text)

    def money(self, minor: int, currency: str) -> str:
        """As people read it."""
        return money(minor, currency, self.profile.settings.currency_exponents)


def profile_of(options: Options, *, makes_ledger: bool = False) -> Profile:
    """The profile that the options name, for a command that works with the books.

    Args:
        options: the command's.
        makes_ledger: whether a missing ledger may be made; else it is an error.

    Raises:
        ConfigurationError: it cannot be loaded, or its ledger is forgotten with every command.
    """
    profile = load_profile(options.profile, os.environ)
    if profile.forgets:
        raise ConfigurationError(
            f"{profile.name}: ledger memory:// is forgotten when the command ends: the next would know of nothing.",
            advice='Keep it in a file: "sqlite:///ledger.db"; nothing was sent.',
        )
    return profile if makes_ledger else profile.with_existing_ledger()


def enquiring_profile_of(options: Options) -> Profile:
    """The profile that the options name, for a command that needs no books.

    Raises:
        ConfigurationError: it cannot be loaded.
    """
    return load_profile(options.profile, os.environ).for_enquiries()


def account_of(profile: Profile, options: Options) -> str:
    """The name of the account that the command is about.

    Raises:
        UsageError: it is not known, or there are several and none is named.
    """
    names = sorted(profile.accounts)
    if options.account is None:
        if not profile.default_account:
            raise UsageError(f"{profile.name} has {len(names)} accounts: give --account ({', '.join(names)}).")
        return profile.default_account
    if options.account in profile.accounts:
        return options.account
    raise UsageError(f"{profile.name} has no account {shown(options.account[:60])}.{nearest(options.account, names)}")


@asynccontextmanager
async def opened(profile: Profile, options: Options) -> AsyncIterator[Session]:
    """All clients of the profile, open, and closed at the end."""
    if options.account is not None:
        account_of(profile, options)  # a wrong name, before anything is opened
    with _warnings(options):
        async with open_clients(profile) as clients:
            yield Session(profile, options, clients, Screen(highlight=False))


@contextmanager
def _warnings(options: Options) -> Iterator[None]:
    """The library's warnings, as lines on stderr."""
    log = logging.getLogger("qfpay_preauth")
    handler = _Aside(options)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _Aside(logging.Handler):
    def __init__(self, options: Options) -> None:
        super().__init__(logging.WARNING)
        self._json = options.json

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if self._json:
            emit_json_aside({"warning": text})
        else:
            say_aside(f"warning: {text}")
