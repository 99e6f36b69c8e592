"""The ledger: what is held, in doubt, executed. `ledger_from` turns a URL into one."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote

from qfpay_preauth.errors import ConfigurationError
from qfpay_preauth.ledger._store import After, Books, Ledger, Reserved

__all__ = ["After", "Books", "Ledger", "Reserved", "ledger_from"]

_ALLOWED = (
    '"memory://", "sqlite:///path" (four slashes for an absolute path), "postgresql://user:password@host/database" '
    "or a Ledger object"
)


def ledger_from(source: str | Ledger) -> Ledger:
    """A ledger from `"memory://"`, `"sqlite:///relative.db"`, `"sqlite:////absolute.db?mode=rwc"`,
    `"postgresql://user:password@host/database?schema=name"`, or itself.

    Raises:
        ConfigurationError: anything else.
    """
    if isinstance(source, Ledger):
        return source
    if not isinstance(source, str):
        raise ConfigurationError(f"ledger must be {_ALLOWED}, not {type(source).__name__}.")
    if source == "memory://":
        from qfpay_preauth.ledger.memory import MemoryLedger

        return MemoryLedger()
    if source.startswith("sqlite:///"):
        return _sqlite(source.removeprefix("sqlite:///"))
    if source.startswith(("postgresql://", "postgres://")):
        from qfpay_preauth.ledger.postgres import PostgresLedger

        return PostgresLedger(source)
    raise ConfigurationError(f"ledger must be {_ALLOWED}, not {source.partition('://')[0]!r:.30}://….")


def _sqlite(rest: str) -> Ledger:
    path, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    mode = options.pop("mode", None)
    if not path or path.endswith("/") or options or mode not in (None, "rw", "rwc"):
        raise ConfigurationError(f'ledger must be {_ALLOWED}; the only option is "?mode=rwc" (or rw).')
    from qfpay_preauth.ledger.sqlite import SqliteLedger

    return SqliteLedger(unquote(path), create=None if mode is None else mode == "rwc")
