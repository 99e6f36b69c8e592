"""The ledger's interface. Its docstrings are the specification; `testing.ledger_contract` runs it on any back-end.

Every verb is one transaction: it happens whole or not at all, and what it returned is durable. Values are frozen.
Nothing is ever deleted. A verb that cannot read or write raises LedgerUnavailableError.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta

from attrs import frozen

from qfpay_preauth._frozen import passing
from qfpay_preauth._models import (
    Authorization,
    Discrepancy,
    Entry,
    Event,
    Listing,
    Movement,
    Notification,
    Observed,
    Policy,
    Request,
    Transaction,
    Verdict,
)
from qfpay_preauth._windows import Claim, Grant


@passing
class Reserved:
    """An entry, and whether this call reserved it (False: it got there first, and no request may be sent).

    `expired`: the authorization's capture window seems to be over, which only the gateway's clock decides.
    """

    entry: Entry
    fresh: bool
    expired: bool = False


@frozen
class Books:
    """One authorization and its unresolved entries, read at one moment."""

    authorization: Authorization
    unresolved: tuple[Entry, ...]


@frozen
class After:
    """Where a listing goes on: after this entry, in the order of its moment (reserved, or concluded) and key."""

    moment: datetime
    idempotency_key: str


class Ledger(ABC):
    """The durable memory of every hold and of every operation on it.

    `shared`: whether several processes may use it at once; then they share the rate windows too.
    """

    shared: bool = False

    @abstractmethod
    async def open(self, environment: str) -> None:
        """Make ready for use in this environment; opening an open ledger does nothing.

        Raises:
            ConfigurationError: the ledger belongs to another environment, or is missing where it must exist.
            LedgerUnavailableError: it is empty, corrupt or not ours; it is never recreated.
        """

    @abstractmethod
    async def close(self) -> None:
        """Finish what was accepted and let go of every resource; closing twice does nothing."""

    @abstractmethod
    async def register(self, authorization: Authorization) -> Authorization:
        """Write a new authorization; the same again returns the stored one and writes nothing.

        Raises:
            IdempotencyConflictError: its syssn is known with another amount, currency or order number, or as
                something else than an authorization.
        """

    @abstractmethod
    async def reserve(self, request: Request) -> Reserved:
        """Claim the amount under the request's key, or return the entry that got there first.

        Fresh: a held entry (attempt n+1 of one that ended re-runnable) is durable, and its amount is claimed.
        Not fresh: an executed, finally refused or doubtful entry of the same request; nothing was written.

        Raises:
            IdempotencyConflictError, OperationInProgressError, UnknownAuthorizationError, UnknownCaptureError,
            OverCaptureError, OverRefundError, AuthorizationClosedError (and its two kinds): nothing was written.
        """

    @abstractmethod
    async def conclude(self, entry: Entry, verdict: Verdict, at: datetime) -> Entry:
        """Apply a verdict to the attempt that `entry` names, and return the entry as it is afterwards.

        Compare-and-set: an entry that ended, or runs another attempt, stays as it is. A yes whose syssn belongs to
        somebody else leaves the entry in doubt. What contradicts is recorded as a discrepancy event.

        Raises:
            OperationInProgressError: the verdict is not the answer, and the entry may still be under way.
        """

    @abstractmethod
    async def books(self, account: str, syssn: str) -> Books | None:
        """An authorization with its unresolved entries, or None if it is not known."""

    @abstractmethod
    async def movement(self, account: str, syssn: str) -> Movement | None:
        """To whom a transaction id of the gateway belongs, or None if nobody here knows it."""

    @abstractmethod
    async def entry(self, account: str, idempotency_key: str) -> Entry | None:
        """The entry under a key, or None."""

    @abstractmethod
    async def doubts(self, account: str, at: datetime, after: After | None, limit: int) -> Sequence[Entry]:
        """At most `limit` entries in doubt at `at`, oldest first, those after `after`; cost grows with doubts only."""

    @abstractmethod
    async def observe(self, account: str, listing: Listing, policy: Policy, asked: Sequence[str]) -> Observed:
        """Apply what the gateway showed: end doubts, record what was made elsewhere, learn words, note differences.

        `asked` are the idempotency keys of the doubts that this listing was read for. The ledger is read after the
        gateway, in the same transaction that writes.
        """

    @abstractmethod
    async def notice(self, account: str, notification: Notification, at: datetime) -> Observed:
        """Keep a verified notification durably, and end the entry that it alone proves executed.

        The same body again changes nothing (`fresh` is False). One that fits nothing stays open (`explained` False),
        and is tried again when an entry comes into doubt.
        """

    @abstractmethod
    async def sweep_notices(self, account: str) -> Sequence[Notification]:
        """The notifications that fit nothing in the books so far."""

    @abstractmethod
    async def adopt(self, authorization: Authorization, rows: Sequence[Transaction], at: datetime) -> Authorization:
        """Register an authorization together with the successful rows of what was already done on it.

        Raises:
            IdempotencyConflictError: something of it is known otherwise; nothing was written.
        """

    @abstractmethod
    async def report(self, account: str) -> Sequence[Discrepancy]:
        """The discrepancies that were recorded and not yet returned by this verb."""

    @abstractmethod
    async def executed(
        self, account: str, start: datetime, end: datetime, after: After | None, limit: int
    ) -> Sequence[Entry]:
        """At most `limit` executed entries concluded from `start` to before `end`, by (concluded_at, key).

        `after` carries the last entry's concluded_at and key.
        """

    @abstractmethod
    async def span(self, account: str) -> datetime | None:
        """From when on the gateway has to be read: the last bookmark, or the first hold's time; None: no holds."""

    @abstractmethod
    async def bookmark(self, account: str, read_until: datetime) -> None:
        """Remember that everything up to `read_until` was compared."""

    @abstractmethod
    async def expiring(
        self, account: str, before: datetime, default_window: timedelta | None
    ) -> Sequence[Authorization]:
        """Authorizations with money uncaptured or claimed, not unfrozen, whose capture window ends before `before`."""

    @abstractmethod
    async def events(self, account: str, idempotency_key: str) -> Sequence[Event]:
        """The whole history of one entry, oldest first."""

    @abstractmethod
    async def draw(self, claim: Claim) -> Grant:
        """Tell the shared rate windows what was sent, and draw permits: see `_windows`.

        What it writes need not be durable, and is not part of the books: it is never copied or restored.
        """
