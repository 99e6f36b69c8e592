"""Where connections come from: a URL of the user's, or a pool of the user's. No password gets into a message or a repr.

Nothing here relies on a session: no statement is kept prepared, nothing is set outside a transaction. So it works
behind a transaction pooler, which hands every transaction to another session.
"""

from __future__ import annotations

import asyncio
import os
import re
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import parse_qsl, urlencode

from attrs import field, frozen

from qfpay_preauth.errors import ConfigurationError, LedgerUnavailableError, PreauthError, shown

if TYPE_CHECKING:
    import asyncpg
    from asyncpg import Pool
    from asyncpg.pool import PoolConnectionProxy

CONNECT_TIMEOUT_S = 5.0
DEFAULT_SCHEMA = "qfpay_preauth"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_OPTIONS = ("schema", "migrate")


@frozen
class Address:
    """A PostgreSQL URL less our own options, and how it is named in messages."""

    url: str = field(repr=False)
    where: str
    schema: str | None
    migrate: bool


def address_of(url: str) -> Address:
    """Read a URL: `?schema=` and `?migrate=true` are ours, everything else is asyncpg's.

    Raises:
        ConfigurationError: one of our options cannot be meant.
    """
    base, _, query = url.partition("?")
    options = parse_qsl(query, keep_blank_values=True)
    ours = {name: value for name, value in options if name in _OPTIONS}
    if ours.get("migrate", "false") not in ("true", "false"):
        raise ConfigurationError("The ledger's ?migrate= must be true or false.")
    rest = urlencode([(name, value) for name, value in options if name not in _OPTIONS])
    schema = check_schema(ours["schema"]) if "schema" in ours else None
    return Address(f"{base}?{rest}" if rest else base, _where(base, query), schema, ours.get("migrate") == "true")


def _where(base: str, query: str) -> str:
    """The URL without user, password and options; nothing at all where they cannot be told apart."""
    scheme, _, rest = base.partition("://")
    if "@" in rest:
        rest = rest.rpartition("@")[2]
    elif "@" in query:
        rest = "…"  # a password with an unescaped "?": what stands before it is no host
    return f"{scheme}://{rest}"


def check_schema(name: object) -> str:
    """A schema's name that needs no quoting.

    Raises:
        ConfigurationError: it is something else.
    """
    if not isinstance(name, str) or not _SCHEMA.fullmatch(name) or name.startswith("pg_"):
        raise ConfigurationError(
            f"A ledger's schema is named by 1 to 63 small letters, digits and _, and not pg_…, not {shown(name)}."
        )
    return name


class Connection(Protocol):
    """What is used of asyncpg's connections, our own or a pool's."""

    async def execute(self, query: str, /, *args: Any) -> str: ...
    async def fetch(self, query: str, /, *args: Any) -> list[Any]: ...
    async def fetchval(self, query: str, /, *args: Any) -> Any: ...
    def transaction(self) -> Any: ...
    def is_closed(self) -> bool: ...
    def terminate(self) -> None: ...


class Source(Protocol):
    """Gives connections and takes them back; both belong to one event loop."""

    where: str
    keeps: bool
    """Whether a connection may be kept while nothing is to do."""

    async def acquire(self) -> Connection: ...
    async def release(self, connection: Connection) -> None: ...


class UrlSource:
    """Connections of our own."""

    keeps = True

    def __init__(self, address: Address) -> None:
        self.where = address.where
        self._address = address

    async def acquire(self) -> Connection:
        """A new connection.

        Raises:
            Unreachable: the URL cannot be read, or the server cannot be reached or does not take us.
        """
        return await _connect(self._address)

    async def release(self, connection: Connection) -> None:
        """Close it."""
        await cast("asyncpg.Connection", connection).close(timeout=CONNECT_TIMEOUT_S)


class PoolSource:
    """Connections of the user's pool, which stays the user's to close."""

    where = "the application's pool"
    keeps = False

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def acquire(self) -> Connection:
        """One of the pool's.

        Raises:
            Unreachable: it belongs to another event loop, or could not give one in time.
        """
        if getattr(self._pool, "_loop", None) not in (None, asyncio.get_running_loop()):
            error = LedgerUnavailableError(
                "The ledger's connection pool belongs to another event loop.",
                advice="Give each event loop a ledger with a pool of its own, or a postgresql:// URL.",
            )
            raise Unreachable(error, lasting=True)
        trouble: Unreachable
        try:
            return cast(Connection, await self._pool.acquire(timeout=CONNECT_TIMEOUT_S))
        except Exception as error:
            trouble = unreachable(self.where, error)
        raise trouble  # outside the handler, so that no frame of the driver's, with the password, hangs on it

    async def release(self, connection: Connection) -> None:
        """Give it back."""
        await self._pool.release(cast("PoolConnectionProxy", connection))


class Unreachable(Exception):
    """No connection, and the error that says so. `lasting`: trying again soon will not help."""

    def __init__(self, error: PreauthError, *, lasting: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.lasting = lasting


async def _connect(address: Address) -> Connection:
    import asyncpg
    from asyncpg.connect_utils import SessionAttribute

    options: dict[str, Any] = {"application_name": "qfpay_preauth"} if "application_name" not in address.url else {}
    known = "target_session_attrs" in address.url or "PGTARGETSESSIONATTRS" in os.environ
    trouble: Unreachable
    try:
        made = await asyncpg.connect(
            address.url,
            statement_cache_size=0,
            timeout=CONNECT_TIMEOUT_S,
            server_settings=options,
            # a standby would show yesterday's books
            target_session_attrs=None if known else SessionAttribute.primary,
        )
        return cast(Connection, made)
    except (asyncpg.ClientConfigurationError, ValueError):
        # what the driver says of a URL that it cannot read may quote parts of the password
        wrong = ConfigurationError(
            f"The ledger's URL {address.where} cannot be read.",
            advice="Write it as postgresql://user:password@host:5432/database, with % escapes in user and password.",
        )
        trouble = Unreachable(wrong, lasting=True)
    except Exception as error:
        trouble = unreachable(address.where, error)
    raise trouble  # outside the handler, so that no frame of the driver's, with the password, hangs on it


def unreachable(where: str, error: BaseException) -> Unreachable:
    """The error of a connection that was not made."""
    state = getattr(error, "sqlstate", None)
    passing = state is None or state[:2] in ("08", "53", "57")  # anything but an answer that says no
    what = first_line(error) or type(error).__name__
    return Unreachable(LedgerUnavailableError(f"The ledger at {where} cannot be reached: {what}."), lasting=not passing)


def first_line(error: BaseException) -> str:
    """What an error says, without the rows that PostgreSQL adds in further lines."""
    return str(error).partition("\n")[0].rstrip(".")
