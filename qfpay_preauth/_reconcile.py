"""Asks the gateway for evidence, ends doubts, compares the books. It sends enquiries only, and never money."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

from qfpay_preauth._findings import MARGIN
from qfpay_preauth._looks import AHEAD, DOUBTS_MAX, Reader, Seen, look, tell_discrepancy
from qfpay_preauth._models import Discrepancy, DiscrepancyKind, Entry, Event, Policy, ReconcileReport
from qfpay_preauth._operations import Desk
from qfpay_preauth._outcomes import handed_out
from qfpay_preauth._turnstile import Turnstile
from qfpay_preauth.errors import PreauthError
from qfpay_preauth.ledger import After

log = logging.getLogger("qfpay_preauth")

OVERLAP = timedelta(days=1)  # rows may come late into the gateway's list
USUAL_WINDOW = timedelta(days=7)  # QFPay, Pre-Authorisation: 7 days for most merchants
WARN_BEFORE = timedelta(days=1)
FIRST_PAUSE_S = 1.0
WAITS_LONG = timedelta(days=1)  # what needs a person for so long is looked at with every pass, and not in between


class Reconciler:
    """Compares our books with the gateway's, within a quarter of the minute's budget."""

    def __init__(self, desk: Desk, account: str, policy: Policy, share: Turnstile) -> None:
        self._desk = desk
        self._account = account
        self._policy = policy
        self._reader = Reader(desk, share)
        self._warned: set[str] = set()
        self._missed: set[Discrepancy] = set()
        self.monotonic = desk.clock.monotonic

    async def run(self) -> ReconcileReport:
        """One pass: doubts, then everything since the last pass, then notices that fit nothing.

        Raises:
            PreauthError: the gateway or the ledger could not be read; what was found so far is kept.
        """
        seen = await self.end_doubts()
        confirmed, missing = await self._compare(seen)
        open_notices = await self._notices(seen)
        left = [entry async for entry in self.doubts()]
        recorded = await self._desk.ledger.report(self._account)
        found = [each for observed in seen.observed for each in observed.discrepancies]
        for each in missing:  # every pass finds it again, and it is told once
            if each not in self._missed:
                tell_discrepancy(self._desk, each, self._desk.clock.now())
        self._missed = set(missing)
        return ReconcileReport(
            ended=tuple(handed_out(entry) for observed in seen.observed for entry in observed.ended),
            discrepancies=tuple(dict.fromkeys([*recorded, *found, *missing])),
            foreign=tuple(movement for observed in seen.observed for movement in observed.foreign),
            confirmed=confirmed,
            in_doubt=len(left),
            needs_attention=sum(entry.attention is not None for entry in left),
            unexplained_notices=open_notices + sum(observed.strangers for observed in seen.observed),
            complete=seen.complete,
        )

    async def doubts(self) -> AsyncIterator[Entry]:
        """Every entry in doubt, oldest first."""
        after: After | None = None
        while True:
            found = await self._desk.ledger.doubts(self._account, self._desk.clock.now(), after, DOUBTS_MAX)
            for entry in found:
                yield entry
            if len(found) < DOUBTS_MAX:
                return
            after = After(found[-1].reserved_at, found[-1].idempotency_key)

    async def warn_of_expiry(self) -> None:
        """One event for each hold whose capture window ends within a day with money uncaptured or in doubt."""
        window = self._policy.default_window or USUAL_WINDOW
        now = self._desk.clock.now()
        for hold in await self._desk.ledger.expiring(self._account, now + WARN_BEFORE, window):
            if hold.syssn not in self._warned:
                self._warned.add(hold.syssn)
                detail = f"the capture window ends at {hold.expires_at(window)}"
                left = hold.capturable + hold.claimed
                self._desk.emit(Event(self._account, now, "expiring", hold.syssn, amount=left, detail=detail))

    def stalled(self, error: PreauthError) -> None:
        """Tell that a pass could not go on: while that lasts, no doubt ends."""
        log.warning("reconciliation could not go on: %s", error.args[0])  # the next pass tries again
        kind = type(error).__name__
        self._desk.emit(Event(self._account, self._desk.clock.now(), "stalled", "", detail=kind))

    async def end_doubts(self, *, recent: bool = False) -> Seen:
        """Look for evidence about every doubt; `recent`: but not about the old ones that wait for a person.

        The gateway's list is read from the oldest of them on.
        """
        now = self._desk.clock.now()
        entries = [
            entry
            async for entry in self.doubts()
            if not (recent and entry.attention and entry.reserved_at < now - WAITS_LONG)
        ]
        return await look(self._desk, self._reader, self._policy, self._account, entries)

    async def _compare(self, seen: Seen) -> tuple[int, list[Discrepancy]]:
        """Everything since the last pass, a day at a time: how many agree, and what is missing there."""
        start = await self._desk.ledger.span(self._account)
        if start is None:
            return 0, []
        start -= OVERLAP
        began = self._desk.clock.now()
        known: set[str] = set()
        confirmed, missing, stable, waiting = 0, list[Discrepancy](), True, False
        low = start
        while low < began + AHEAD:
            high = min(low + timedelta(days=1), began + AHEAD)
            listing = await self._reader.listing(low, high)
            known.update(row.syssn for row in listing.rows)
            stable = stable and listing.stable
            again = await seen.observe(self._desk, self._account, listing, self._policy, ())
            waiting = waiting or again
            found, lacking = await self._missing_there((max(low, start + MARGIN), min(high, began)), start, known)
            confirmed, missing = confirmed + found, missing + lacking
            if stable and not missing and not waiting:
                # an interrupted pass goes on here; one that misses something looks at it again
                await self._desk.ledger.bookmark(self._account, min(high, began))
            low = high
        if stable and not waiting:
            await self._desk.ledger.bookmark(self._account, began)
        return confirmed, missing

    async def _missing_there(
        self, span: tuple[datetime, datetime], start: datetime, known: set[str]
    ) -> tuple[int, list[Discrepancy]]:
        """Of the entries concluded in `span`: how many the rows since `start` showed, and which they did not."""
        confirmed, missing = 0, []
        after: After | None = None
        while True:
            page = await self._desk.ledger.executed(self._account, *span, after, DOUBTS_MAX)
            for entry in page:
                if entry.result_syssn in known:
                    confirmed += 1
                elif entry.result_syssn is not None and start <= (entry.system_time or entry.reserved_at) < span[1]:
                    missing.append(_not_there(entry))
            if len(page) < DOUBTS_MAX:
                return confirmed, missing
            after = After(page[-1].concluded_at or span[1], page[-1].idempotency_key)

    async def _notices(self, seen: Seen) -> int:
        """Look up what notifications named and the books do not know; how many stay unexplained."""
        open_ones = await self._desk.ledger.sweep_notices(self._account)
        syssns = sorted({notice.syssn for notice in open_ones if notice.syssn})
        for low in range(0, len(syssns), DOUBTS_MAX):
            part = syssns[low : low + DOUBTS_MAX]
            seen.add(await look(self._desk, self._reader, self._policy, self._account, (), part))
        return len(await self._desk.ledger.sweep_notices(self._account)) if syssns else len(open_ones)


def _not_there(entry: Entry) -> Discrepancy:
    return Discrepancy(
        DiscrepancyKind.MISSING_THERE,
        entry.authorization,
        entry.result_syssn,
        entry.idempotency_key,
        f"{entry.operation.value} of {entry.amount} {entry.currency}, executed",
        "not (yet) in the gateway's list",
    )


async def run_forever(reconciler: Reconciler, interval_s: float, doubt: asyncio.Event) -> None:
    """A pass every `interval_s`; in between, doubts are looked at soon after they come up, then ever more rarely."""
    monotonic = reconciler.monotonic
    next_pass, pause_s = monotonic(), FIRST_PAUSE_S
    while True:
        try:
            if monotonic() >= next_pass:
                next_pass = monotonic() + interval_s
                await reconciler.run()
                await reconciler.warn_of_expiry()
            else:
                await reconciler.end_doubts(recent=True)
        except PreauthError as error:
            reconciler.stalled(error)
        left = max(0.0, next_pass - monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left, pause_s)):
                await doubt.wait()
                pause_s = FIRST_PAUSE_S / 2
                await asyncio.sleep(FIRST_PAUSE_S)  # rows come a little after their answers
        doubt.clear()
        pause_s = min(2 * pause_s, interval_s)
