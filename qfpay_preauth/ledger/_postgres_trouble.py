"""What an error means for the ledger's transaction that met it; it never means anything for a request."""

from __future__ import annotations

import asyncio
import enum

from attrs import frozen

from qfpay_preauth.errors import LedgerUnavailableError, PreauthError
from qfpay_preauth.ledger._postgres_flush import STALE, UNMARKED
from qfpay_preauth.ledger._postgres_schema import MOVED_ADVICE
from qfpay_preauth.ledger._postgres_source import Unreachable, first_line


class Trouble(enum.Enum):
    """What to do about it."""

    AGAIN = enum.auto()
    """Others were in the way: the same transaction again."""
    LOST = enum.auto()
    """The connection is gone, or the server is not ready: again on another one."""
    LOCKED = enum.auto()
    """Somebody holds a lock for long: the jobs of other holds must not wait for it."""
    REFUSED = enum.auto()
    """PostgreSQL does not take what a job writes: the others must not suffer for it."""
    FINAL = enum.auto()
    """Nothing that is tried again would do better."""


class Stale(Exception):
    """Something that was read has changed before it was written."""


class Moved(Exception):
    """The ledger was moved elsewhere while it was in use."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.error = LedgerUnavailableError(text, advice=MOVED_ADVICE)


class Unjudged(Exception):
    """The connection was lost while committing, and nobody could be asked whether that happened."""


@frozen
class Failure:
    """A transaction that was not committed, or of which nobody can say so."""

    error: BaseException
    trouble: Trouble


_STATES = {
    "40003": Trouble.LOST,  # statement_completion_unknown: as if nothing had been answered
    "23505": Trouble.AGAIN,  # unique_violation: somebody else wrote the key first
    "25P02": Trouble.AGAIN,  # in_failed_sql_transaction
    "25P03": Trouble.LOST,  # idle_in_transaction_session_timeout
    "25P04": Trouble.LOST,  # transaction_timeout
    "53100": Trouble.REFUSED,  # disk_full does not pass by itself
    "55P03": Trouble.LOCKED,  # lock_not_available
    "57014": Trouble.LOCKED,  # query_canceled: a statement_timeout of the role's
}
_CLASSES = {
    "40": Trouble.AGAIN,  # serialization failures, deadlocks
    "08": Trouble.LOST,  # connection exceptions
    "53": Trouble.LOST,  # insufficient resources: too many connections, no memory
    "57": Trouble.LOST,  # operator intervention: shutting down, starting up, terminated
}


def failure_of(error: BaseException, *, closed: bool) -> Failure:
    """What `error` means; `closed`: its connection is gone."""
    state = getattr(error, "sqlstate", None) or ""
    if isinstance(error, Stale) or state in (STALE, UNMARKED):
        trouble = Trouble.AGAIN
    elif isinstance(error, Moved | Unjudged):
        trouble = Trouble.FINAL
    elif isinstance(error, Unreachable):
        trouble = Trouble.FINAL if error.lasting else Trouble.LOST
    elif state:
        trouble = _STATES.get(state) or _CLASSES.get(state[:2]) or Trouble.REFUSED
    elif closed or isinstance(error, OSError | TimeoutError | asyncio.CancelledError):
        trouble = Trouble.LOST
    else:
        trouble = Trouble.REFUSED
    return Failure(error, trouble)


def error_of(where: str, error: BaseException) -> PreauthError:
    """What a caller gets."""
    if isinstance(error, Unreachable | Moved):
        return error.error
    unavailable = LedgerUnavailableError(f"The ledger at {where} could not be read or written: {_what(error)}.")
    if getattr(error, "sqlstate", None):
        # what PostgreSQL itself said, without the frames of the driver, which hold the password
        unavailable.__cause__ = error.with_traceback(None)
    return unavailable


def _what(error: BaseException) -> str:
    if isinstance(error, Stale) or getattr(error, "sqlstate", None) in (STALE, UNMARKED):
        return "what was read kept changing"
    if isinstance(error, Unjudged):
        return "the connection was lost, and whether this was still written is not known"
    return first_line(error) or type(error).__name__
