"""A ledger in this process's memory: for tests and trials. It forgets every hold when the process ends."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from qfpay_preauth._models import (
    Authorization,
    Discrepancy,
    Entry,
    Event,
    Listing,
    Movement,
    Notification,
    Observed,
    Operation,
    Policy,
    Request,
    State,
    Transaction,
    Verdict,
)
from qfpay_preauth._windows import Claim, Grant
from qfpay_preauth.errors import ConfigurationError
from qfpay_preauth.ledger import _observe, _verbs
from qfpay_preauth.ledger._store import After, Books, Ledger, Reserved


class MemoryLedger(Ledger):
    """`memory://`: every verb runs without an await in between, so it is one transaction for its event loop."""

    def __init__(self) -> None:
        self._environment: str | None = None
        self._authorizations: dict[tuple[str, str], Authorization] = {}
        self._movements: dict[tuple[str, str], Movement] = {}
        self._entries: dict[tuple[str, str], Entry] = {}
        self._unresolved: dict[tuple[str, str], dict[str, Entry]] = {}
        self._open_order: dict[str, list[tuple[datetime, str]]] = {}
        self._events: dict[tuple[str, str | None], list[Event]] = {}
        self._owning: set[tuple[str, str]] = set()
        self._of_hold: dict[tuple[str, str], dict[str, None]] = {}
        self._by_number: dict[tuple[str, str], str] = {}
        self._words: dict[str, dict[str, dict[str, bool]]] = {}
        self._discrepancies: dict[tuple[str, Discrepancy], bool] = {}
        self._notices: dict[tuple[str, str], Notification] = {}
        self._open_notices: dict[tuple[str, str], Notification] = {}
        self._bookmarks: dict[str, datetime] = {}
        self._windows: dict[str, str] = {}

    async def open(self, environment: str) -> None:
        if self._environment not in (None, environment):
            raise ConfigurationError(f"This ledger belongs to {self._environment}, not to {environment}.")
        self._environment = environment

    async def close(self) -> None:
        """Nothing to let go of; the books stay readable for whoever holds the object."""

    async def register(self, authorization: Authorization) -> Authorization:
        return _verbs.register(self, authorization)

    async def reserve(self, request: Request) -> Reserved:
        return _verbs.reserve(self, request)

    async def conclude(self, entry: Entry, verdict: Verdict, at: datetime) -> Entry:
        return _observe.conclude(self, entry, verdict, at)

    async def books(self, account: str, syssn: str) -> Books | None:
        return _verbs.books(self, account, syssn)

    async def movement(self, account: str, syssn: str) -> Movement | None:
        return self.get_movement(account, syssn)

    async def entry(self, account: str, idempotency_key: str) -> Entry | None:
        return self.get_entry(account, idempotency_key)

    async def doubts(self, account: str, at: datetime, after: After | None, limit: int) -> Sequence[Entry]:
        order = self._open_order.get(account, [])
        start = bisect.bisect_right(order, (after.moment, after.idempotency_key)) if after else 0
        found = []
        for _, key in order[start:]:
            entry = self._entries[account, key]
            if entry.doubtful(at):
                found.append(entry)
                if len(found) == limit:
                    break
        return found

    async def events(self, account: str, idempotency_key: str) -> Sequence[Event]:
        return tuple(self._events.get((account, idempotency_key), ()))

    async def observe(self, account: str, listing: Listing, policy: Policy, asked: Sequence[str]) -> Observed:
        return _observe.observe(self, account, listing, policy, asked)

    async def notice(self, account: str, notification: Notification, at: datetime) -> Observed:
        return _observe.notice(self, account, notification, at)

    async def sweep_notices(self, account: str) -> Sequence[Notification]:
        return _observe.sweep_notices(self, account)

    async def adopt(self, authorization: Authorization, rows: Sequence[Transaction], at: datetime) -> Authorization:
        return _observe.adopt(self, authorization, rows, at)

    async def report(self, account: str) -> Sequence[Discrepancy]:
        new = [found for found, reported in self._discrepancies.items() if found[0] == account and not reported]
        self._discrepancies.update(dict.fromkeys(new, True))
        return [discrepancy for _, discrepancy in new]

    async def executed(
        self, account: str, start: datetime, end: datetime, after: After | None, limit: int
    ) -> Sequence[Entry]:
        place = (after.moment, after.idempotency_key) if after else (start, "")
        found = [
            entry
            for entry in self._entries.values()
            if entry.account == account
            and entry.state is State.EXECUTED
            and entry.concluded_at is not None
            and (entry.concluded_at, entry.idempotency_key) > place
            and entry.concluded_at < end
        ]
        return sorted(found, key=lambda entry: (entry.concluded_at, entry.idempotency_key))[:limit]

    async def span(self, account: str) -> datetime | None:
        if account in self._bookmarks:
            return self._bookmarks[account]
        holds = [hold for hold in self._authorizations.values() if hold.account == account]
        return min((min(hold.registered_at, hold.authorized_at or hold.registered_at) for hold in holds), default=None)

    async def bookmark(self, account: str, read_until: datetime) -> None:
        self._bookmarks[account] = max(read_until, self._bookmarks.get(account, read_until))

    async def expiring(
        self, account: str, before: datetime, default_window: timedelta | None
    ) -> Sequence[Authorization]:
        ends = {
            hold.syssn: end
            for hold in self._authorizations.values()
            if hold.account == account
            and hold.captured + hold.foreign_captured < hold.amount
            and not hold.unfrozen + hold.foreign_unfrozen
            and (end := hold.expires_at(default_window)) is not None
            and end < before
        }
        return [self._authorizations[account, syssn] for syssn in sorted(ends, key=lambda syssn: (ends[syssn], syssn))]

    # ------------------------------------------------------------------ the transaction that the verbs see

    def lower_bookmark(self, account: str, moment: datetime) -> None:
        if account in self._bookmarks:
            self._bookmarks[account] = min(moment, self._bookmarks[account])

    def get_by_number(self, account: str, out_trade_no: str) -> Entry | None:
        key = self._by_number.get((account, out_trade_no))
        return None if key is None else self._entries[account, key]

    def owns_movement(self, account: str, idempotency_key: str) -> bool:
        return (account, idempotency_key) in self._owning

    def get_of_hold(self, account: str, authorization: str) -> Sequence[Entry]:
        return tuple(self._entries[account, key] for key in self._of_hold.get((account, authorization), ()))

    def get_words(self, account: str) -> Mapping[str, Mapping[str, bool]]:
        return self._words.get(account, {})

    def put_word(self, account: str, kind: str, word: str, linked: bool) -> None:
        shown = self._words.setdefault(account, {}).setdefault(kind, {})
        shown[word] = shown.get(word, False) or linked

    def put_discrepancy(self, account: str, at: datetime, discrepancy: Discrepancy) -> bool:
        known = (account, discrepancy) in self._discrepancies
        self._discrepancies.setdefault((account, discrepancy), False)
        return not known

    def put_notice(self, account: str, at: datetime, notice: Notification) -> bool:
        name = (account, notice.digest)
        if name in self._notices:
            return False
        self._notices[name] = self._open_notices[name] = notice
        return True

    def get_open_notices(self, account: str, orig_syssn: str | None) -> Sequence[Notification]:
        mine = [notice for name, notice in self._open_notices.items() if name[0] == account]
        return [notice for notice in mine if orig_syssn in (None, notice.orig_syssn)]

    def end_notice(self, account: str, digest: str) -> None:
        self._open_notices.pop((account, digest), None)

    def get_authorization(self, account: str, syssn: str) -> Authorization | None:
        return self._authorizations.get((account, syssn))

    def get_movement(self, account: str, syssn: str) -> Movement | None:
        return self._movements.get((account, syssn))

    def get_entry(self, account: str, idempotency_key: str) -> Entry | None:
        return self._entries.get((account, idempotency_key))

    def get_unresolved(self, account: str, authorization: str) -> Sequence[Entry]:
        return tuple(self._unresolved.get((account, authorization), {}).values())

    def put_authorization(self, authorization: Authorization) -> None:
        self._authorizations[authorization.account, authorization.syssn] = authorization

    def put_movement(self, movement: Movement) -> None:
        self._movements[movement.account, movement.syssn] = movement
        if movement.idempotency_key is not None:
            self._owning.add((movement.account, movement.idempotency_key))

    def put_entry(self, entry: Entry) -> None:
        account, key = name = (entry.account, entry.idempotency_key)
        before = self._entries.get(name)
        self._entries[name] = entry
        if before is None:
            self._of_hold.setdefault((account, entry.authorization), {})[key] = None
        if entry.out_trade_no is not None and entry.operation is not Operation.UNFREEZE:
            self._by_number[account, entry.out_trade_no] = key
        was_open = before is not None and before.unresolved
        if entry.unresolved:
            self._unresolved.setdefault((account, entry.authorization), {})[key] = entry
            if not was_open:
                bisect.insort(self._open_order.setdefault(account, []), _place(entry))
        elif was_open:
            self._close(entry)

    def _close(self, entry: Entry) -> None:
        order = self._open_order[entry.account]
        del order[bisect.bisect_left(order, _place(entry))]
        hold = (entry.account, entry.authorization)
        of_hold = self._unresolved[hold]
        del of_hold[entry.idempotency_key]
        if not of_hold:
            del self._unresolved[hold]

    def add_event(self, event: Event) -> None:
        self._events.setdefault((event.account, event.idempotency_key), []).append(event)

    async def draw(self, claim: Claim) -> Grant:
        return _verbs.draw(self, claim)

    def get_windows(self, name: str) -> str | None:
        """See _verbs.Transaction."""
        return self._windows.get(name)

    def put_windows(self, name: str, state: str) -> None:
        """See _verbs.Transaction."""
        self._windows[name] = state


def _place(entry: Entry) -> tuple[datetime, str]:
    return entry.reserved_at, entry.idempotency_key
