"""What is asked of the tables directly: listings in pages, and the few writes that need no rules."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from qfpay_preauth._models import Authorization, Discrepancy, Entry, Event
from qfpay_preauth._windows import Claim, Grant, exchanged, from_text, to_text
from qfpay_preauth.ledger import _postgres_rows as rows
from qfpay_preauth.ledger._postgres_snapshot import Snapshot
from qfpay_preauth.ledger._postgres_source import Connection
from qfpay_preauth.ledger._store import After

_LOWEST = -(2**62)


def _documents(table: rows.Table) -> str:
    return f"SELECT json_build_array({rows.columns(table, 't')})::text FROM {{s}}.{table.name} t WHERE t.account = $1"


# every statement names, in its conditions, exactly one index's columns: see the growth tests
STATEMENTS = {
    "doubts": f"{_documents(rows.ENTRIES)} AND t.unresolved_since IS NOT NULL "
    "AND (t.state = 'in_doubt' OR t.doubt_at <= $2) AND (t.unresolved_since, t.idempotency_key) > ($3, $4) "
    "ORDER BY t.unresolved_since, t.idempotency_key LIMIT $5",
    "events": f"{_documents(rows.EVENTS)} AND t.idempotency_key = $2 ORDER BY t.id",
    "executed": f"{_documents(rows.ENTRIES)} AND t.state = 'executed' "
    "AND (t.concluded_at, t.idempotency_key) > ($2, $3) AND t.concluded_at < $4 "
    "ORDER BY t.concluded_at, t.idempotency_key LIMIT $5",
    "span": "SELECT coalesce((SELECT read_until FROM {s}.bookmarks WHERE account = $1), "
    "(SELECT min(least(registered_at, coalesce(authorized_at, registered_at))) FROM {s}.authorizations "
    "WHERE account = $1))",
    "expiring": f"{_documents(rows.AUTHORIZATIONS)} AND t.amount > t.captured + t.foreign_captured "
    "AND t.unfrozen + t.foreign_unfrozen = 0 "
    "AND coalesce(t.authorized_at, t.registered_at) + coalesce(t.capture_window, $2) < $3 "
    "ORDER BY coalesce(t.authorized_at, t.registered_at) + coalesce(t.capture_window, $2), t.syssn",
    "take_discrepancies": "UPDATE {s}.discrepancies SET reported = true WHERE account = $1 AND NOT reported "
    'RETURNING id, kind, "authorization", syssn, idempotency_key, ours, theirs',
    "put_bookmark": "INSERT INTO {s}.bookmarks AS t (account, read_until) VALUES ($1, $2) "
    "ON CONFLICT (account) DO UPDATE SET read_until = greatest(t.read_until, excluded.read_until)",
    "begin_windows": "INSERT INTO {s}.windows (name, state) VALUES ($1, '') ON CONFLICT (name) DO NOTHING",
    # the clock is read once the row is locked: what locks stays a query of its own, and is done first
    "lock_windows": "SELECT state, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint "
    "FROM (SELECT state FROM {s}.windows WHERE name = $1 FOR UPDATE) locked",
}


class Reads:
    """The statements of one schema; each method runs within a transaction that somebody else begins and ends."""

    def __init__(self, schema: str) -> None:
        self.texts = {name: text.format(s=schema) for name, text in STATEMENTS.items()}

    async def doubts(
        self, connection: Connection, account: str, at: datetime, after: After | None, limit: int
    ) -> Sequence[Entry]:
        """See Ledger.doubts."""
        place = (rows.micros(after.moment), after.idempotency_key) if after else (_LOWEST, "")
        return await self._entries(connection, "doubts", account, rows.micros(at), *place, limit)

    async def executed(  # noqa: PLR0917 - as Ledger.executed
        self,
        connection: Connection,
        account: str,
        start: datetime,
        end: datetime,
        after: After | None,
        limit: int,
    ) -> Sequence[Entry]:
        """See Ledger.executed."""
        # without a last one: after everything of the microsecond before `start`
        place = (rows.micros(after.moment), after.idempotency_key) if after else (rows.micros(start) - 1, "\U0010ffff")
        return await self._entries(connection, "executed", account, *place, rows.micros(end), limit)

    async def _entries(self, connection: Connection, name: str, *values: Any) -> Sequence[Entry]:
        found = await connection.fetch(self.texts[name], *values)
        return tuple(rows.value_of(Entry, json.loads(document)) for (document,) in found)

    async def events(self, connection: Connection, account: str, idempotency_key: str) -> Sequence[Event]:
        """See Ledger.events."""
        found = await connection.fetch(self.texts["events"], account, idempotency_key)
        return tuple(rows.value_of(Event, json.loads(document)) for (document,) in found)

    async def span(self, connection: Connection, account: str) -> datetime | None:
        """See Ledger.span."""
        return rows.moment(await connection.fetchval(self.texts["span"], account))

    async def expiring(
        self, connection: Connection, account: str, before: datetime, default_window: timedelta | None
    ) -> Sequence[Authorization]:
        """See Ledger.expiring."""
        values = (account, rows.interval(default_window), rows.micros(before))
        found = await connection.fetch(self.texts["expiring"], *values)
        return tuple(rows.value_of(Authorization, json.loads(document)) for (document,) in found)

    async def take_discrepancies(self, connection: Connection, account: str) -> Sequence[Discrepancy]:
        """See Ledger.report."""
        found = sorted(await connection.fetch(self.texts["take_discrepancies"], account), key=lambda row: row[0])
        return [rows.discrepancy_of(row[1:]) for row in found]

    async def put_bookmark(self, connection: Connection, account: str, read_until: datetime) -> None:
        """See Ledger.bookmark."""
        await connection.execute(self.texts["put_bookmark"], account, rows.micros(read_until))

    async def draw(self, connection: Connection, snapshot: Snapshot, claim: Claim, asked: float) -> Grant:
        """See Ledger.draw. The clock is the database's; `asked` is the claim's, read before anything was sent."""
        found = await connection.fetch(self.texts["lock_windows"], claim.name)
        if not found:
            await connection.execute(self.texts["begin_windows"], claim.name)
            found = await connection.fetch(self.texts["lock_windows"], claim.name)
        ((state, now_ms),) = found
        state = snapshot.windows.get(claim.name, state)  # another draw of the same transaction put it
        # at least so long ago; less would keep what was spent in its window for longer than it is, never shorter
        spent_ms = now_ms - max(0, math.floor((asked - claim.spent_at) * 1000))
        windows, grant = exchanged(from_text(state or None), claim, now_ms, spent_ms)
        if claim.spent or claim.returned or claim.park_s or grant.permits:
            snapshot.put_windows(claim.name, to_text(windows))
        return grant
