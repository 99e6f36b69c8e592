"""Where the command line's clients come from: `QFPAY_*` variables, or a profile in a TOML file.

A file holds one profile at its top level, or several as `[profiles.NAME]`:

    [profiles.shop]
    environment = "production"
    ledger = "sqlite:///ledger.db"            # relative to this file
    app_code = "…"
    client_key_env = "SHOP_QFPAY_KEY"         # better than client_key = "…"
    mchid = "…"

    [profiles.shop.settings]                  # the names of Settings
    timeout_total_s = 20

Several accounts: `[profiles.shop.accounts.hk]`, each with what is its own; what they share stands above them.
Every name is known or refused (with the nearest known one), every error names file and key, and no message ever holds
a secret's value.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

from attrs import evolve, field, fields, frozen

from qfpay_preauth import _profile_file as _file
from qfpay_preauth._client import PreauthClient
from qfpay_preauth._models import Event
from qfpay_preauth._profile_file import Table
from qfpay_preauth._settings import Credentials, HiddenMapping, Settings, gateway_url, settings_from
from qfpay_preauth.errors import ConfigurationError
from qfpay_preauth.ledger import Ledger, ledger_from

FROM_VARIABLES = "QFPAY_* variables"

_TEXTS = ("app_code", "sign_type")
_OWN = ("mchid", "account")  # these tell accounts apart, so several of them cannot share one
_SECRETS = ("client_key", "notification_key", "previous_client_key", "previous_notification_key")
_CREDENTIALS = (*_TEXTS, *_OWN, *_SECRETS, *(f"{name}_env" for name in _SECRETS))
_KNOWN = ("environment", "base_url", "ledger", "ledger_env", "settings", "accounts", "default_account", *_CREDENTIALS)


@frozen
class Profile:
    """One set-up: an environment, a ledger, and the accounts whose money it is.

    Attributes:
        name: the profile's name, for messages.
        environment, base_url, settings: as `PreauthClient` takes them.
        ledger: the URL; it may hold a password, so it is not in the repr (`ledger_shown` has none).
        accounts: name → credentials; the names are the file's, else the account's own.
        default_account: the account of what names none; "" where several are there and none was made the default.
    """

    name: str
    environment: str
    ledger: str = field(repr=False)
    base_url: str | None
    settings: Settings
    accounts: Mapping[str, Credentials]
    default_account: str

    @property
    def forgets(self) -> bool:
        """Whether the ledger is forgotten when the process ends, so that a command could move money twice."""
        return self.ledger == "memory://"

    @property
    def ledger_shown(self) -> str:
        """The ledger's URL without user and password."""
        return _file.without_password(self.ledger)

    def with_existing_ledger(self) -> Profile:
        """The same, but a ledger that is missing is an error instead of made new."""
        return evolve(self, ledger=_file.existing(self.ledger))

    def for_enquiries(self) -> Profile:
        """The same for what needs no books: its own ledger, with the budget that it shares, where there is one.

        A SQLite file that is not there yet is not made for it.
        """
        missing = _file.is_missing(self.ledger)
        return evolve(self, ledger="memory://") if missing else self.with_existing_ledger()

    def clients(self, on_event: Callable[[Event], None] | None = None) -> dict[str, PreauthClient]:
        """A client for each account, all on one ledger object, none of them open.

        Whoever opens them closes them, and the ledger after them; `open_clients` does all that.
        """
        return self._clients_on(ledger_from(self.ledger), on_event)

    def _clients_on(self, ledger: Ledger, on_event: Callable[[Event], None] | None) -> dict[str, PreauthClient]:
        return {
            name: PreauthClient(
                credentials,
                environment=self.environment,
                base_url=self.base_url,
                ledger=ledger,
                settings=self.settings,
                on_event=on_event,
            )
            for name, credentials in self.accounts.items()
        }


@asynccontextmanager
async def open_clients(
    profile: Profile, on_event: Callable[[Event], None] | None = None
) -> AsyncIterator[Mapping[str, PreauthClient]]:
    """Open a client for each account, and at the end close them (each drains), then their ledger.

    Raises:
        ConfigurationError, LedgerUnavailableError: the ledger cannot be opened.
    """
    ledger = ledger_from(profile.ledger)
    clients = profile._clients_on(ledger, on_event)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(ledger.close)
        stack.push_async_callback(_close_all, clients)
        for client in clients.values():
            await client.__aenter__()
        yield clients


async def _close_all(clients: Mapping[str, PreauthClient]) -> None:
    """All drain at the same time."""
    await asyncio.gather(*(client.aclose() for client in clients.values()))


# ------------------------------------------------------------------------------------------------ loading


def load_profile(profile: str | None, environ: Mapping[str, str]) -> Profile:
    """The profile that `--profile` names, or, where it is None, the one of the QFPAY_* variables.

    Args:
        profile: NAME, path/to/file.toml or path/to/file.toml:NAME (see `_profile_file.place_of`).
        environ: the environment's variables.

    Raises:
        ConfigurationError: something is missing, unknown or of the wrong kind; it says where.
    """
    hidden = HiddenMapping(environ)
    if profile is None:
        return _from_variables(hidden)
    path, name = _file.place_of(profile, hidden)
    table, mode = _file.read_table(path, name)
    return _from_table(table, mode, hidden)


def _from_variables(environ: HiddenMapping) -> Profile:
    missing = [name for name in ("QFPAY_APP_CODE", "QFPAY_CLIENT_KEY", "QFPAY_LEDGER") if not environ.get(name)]
    if missing:
        raise ConfigurationError(
            f"The environment lacks {', '.join(missing)}.",
            advice="Set them, or give --profile NAME (a profile in qfpay-preauth.toml); nothing was sent.",
        )
    names = [each.name for each in fields(Credentials)]
    credentials = Credentials(
        **{name: environ[f"QFPAY_{name.upper()}"] for name in names if environ.get(f"QFPAY_{name.upper()}")}
    )
    return _checked(
        Profile(
            FROM_VARIABLES,
            environ.get("QFPAY_ENVIRONMENT") or "sandbox",
            environ["QFPAY_LEDGER"],
            environ.get("QFPAY_BASE_URL") or None,
            settings_from(environ),
            {credentials.account_name: credentials},
            credentials.account_name,
        )
    )


def _checked(profile: Profile) -> Profile:
    gateway_url(profile.environment, profile.base_url)
    ledger_from(profile.ledger)  # only looks at the URL
    return profile


def _from_table(table: Table, mode: int, environ: HiddenMapping) -> Profile:
    table.check_names(_KNOWN)
    ledger = table.secret("ledger", environ)
    if ledger is None:
        raise table.error("ledger", "is missing: it is the memory of every hold.")
    if table.text("ledger") is not None and _file.has_password(ledger):
        _file.check_private(table.path, mode, "ledger")
    accounts = _accounts(table, mode, environ)
    profile = Profile(
        table.name.removeprefix("profiles.") or table.path.name,
        table.text("environment") or "sandbox",
        _file.anchored(ledger, table.path.parent),
        table.text("base_url"),
        _settings(table.table("settings")),
        accounts,
        _default_account(table, accounts),
    )
    try:
        return _checked(profile)
    except ConfigurationError as error:
        problem = table.of(error)
    raise problem


def _default_account(table: Table, accounts: Mapping[str, Credentials]) -> str:
    name = table.text("default_account")
    if name is None:
        return next(iter(accounts)) if len(accounts) == 1 else ""
    if name not in accounts:
        raise table.error("default_account", f"there is no such account.{_file.nearest(name, accounts)}")
    return name


def _accounts(table: Table, mode: int, environ: HiddenMapping) -> dict[str, Credentials]:
    listed = table.table("accounts")
    if listed is None:
        alone = _credentials(table, table, mode, environ)
        return {alone.account_name: alone}
    for name in _OWN:
        if name in table.values:
            raise table.error(name, "belongs to one account: write it into [….accounts.NAME].")
    if not listed.values:
        raise table.error("accounts", "is empty.")
    accounts: dict[str, Credentials] = {}
    for name in listed.values:
        each = listed.table(name)
        assert each is not None  # noqa: S101 - the name was taken from the table
        each.check_names(_CREDENTIALS)
        accounts[name] = _credentials(each, table, mode, environ)
    _check_apart(listed, accounts)
    return accounts


def _check_apart(listed: Table, accounts: Mapping[str, Credentials]) -> None:
    owners: dict[str, str] = {}
    for name, credentials in accounts.items():
        other = owners.setdefault(credentials.account_name, name)
        if other != name:
            raise listed.error(name, f"is the same account ({credentials.account_name}) in the ledger as {other}.")


def _credentials(own: Table, shared: Table, mode: int, environ: HiddenMapping) -> Credentials:
    given: dict[str, Any] = HiddenMapping()
    for name in (*_TEXTS, *_OWN):
        value = own.text(name) or (shared.text(name) if name in _TEXTS else None)
        if value is not None:
            given[name] = value
    for name in _SECRETS:
        source = own if name in own.values or f"{name}_env" in own.values else shared
        if source.text(name) is not None:
            _file.check_private(source.path, mode, name)
        value = source.secret(name, environ)
        if value is not None:
            given[name] = value
    for name in ("app_code", "client_key"):
        if name not in given:
            hint = " (or client_key_env, the NAME of a variable)" if name == "client_key" else ""
            raise own.error(f"{name}{hint}", "is missing.")
    try:
        return Credentials(**given)
    except ConfigurationError as error:
        problem = own.of(error)
    raise problem


def _settings(table: Table | None) -> Settings:
    if table is None:
        return Settings()
    table.check_names([each.name for each in fields(Settings)])
    given: dict[str, Any] = dict(table.values)
    days = given.get("default_capture_window")
    if days is not None:
        if isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days <= 366:
            raise table.error("default_capture_window", "must be a number of days.")
        given["default_capture_window"] = timedelta(days=days)
    try:
        return Settings(**given)
    except ConfigurationError as error:
        problem = table.of(error)
    raise problem
