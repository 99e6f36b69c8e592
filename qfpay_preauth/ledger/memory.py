"""A ledger in this process's memory: for tests and trials. It forgets every hold when the process ends."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from datetime import datetime

from attrs import evolve

from qfpay_preauth._models import Authorization, Entry, Event, Movement, Request, Verdict
from qfpay_preauth.errors import ConfigurationError
from qfpay_preauth.ledger import _verbs
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
        return _verbs.conclude(self, entry, verdict, at)

    async def books(self, account: str, syssn: str) -> Books | None:
        return _verbs.books(self, account, syssn)

    async def movement(self, account: str, syssn: str) -> Movement | None:
        return self.get_movement(account, syssn)

    async def entry(self, account: str, idempotency_key: str) -> Entry | None:
        return self.get_entry(account, idempotency_key)

    async def doubts(self, account: str, at: datetime, after: After | None, limit: int) -> Sequence[Entry]:
        order = self._open_order.get(account, [])
        start = bisect.bisect_right(order, (after.reserved_at, after.idempotency_key)) if after else 0
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

    # ------------------------------------------------------------------ the transaction that the verbs see

    def get_authorization(self, account: str, syssn: str) -> Authorization | None:
        return self._authorizations.get((account, syssn))

    def get_movement(self, account: str, syssn: str) -> Movement | None:
        return self._movements.get((account, syssn))

    def get_entry(self, account: str, idempotency_key: str) -> Entry | None:
        entry = self._entries.get((account, idempotency_key))
        return entry if entry is None or entry.raw is None else evolve(entry, raw=dict(entry.raw))

    def get_unresolved(self, account: str, authorization: str) -> Sequence[Entry]:
        return tuple(self._unresolved.get((account, authorization), {}).values())

    def put_authorization(self, authorization: Authorization) -> None:
        self._authorizations[authorization.account, authorization.syssn] = authorization

    def put_movement(self, movement: Movement) -> None:
        self._movements[movement.account, movement.syssn] = movement

    def put_entry(self, entry: Entry) -> None:
        if entry.raw is not None:
            entry = evolve(entry, raw=dict(entry.raw))  # nobody else holds what is stored
        self._entries[entry.account, entry.idempotency_key] = entry
        hold = (entry.account, entry.authorization)
        known = self._unresolved.setdefault(hold, {})
        if entry.unresolved:
            if entry.idempotency_key not in known:
                bisect.insort(self._open_order.setdefault(entry.account, []), _place(entry))
            known[entry.idempotency_key] = entry
        elif known.pop(entry.idempotency_key, None):
            order = self._open_order[entry.account]
            del order[bisect.bisect_left(order, _place(entry))]
        if not known:
            del self._unresolved[hold]

    def add_event(self, event: Event) -> None:
        self._events.setdefault((event.account, event.idempotency_key), []).append(event)


def _place(entry: Entry) -> tuple[datetime, str]:
    return entry.reserved_at, entry.idempotency_key
