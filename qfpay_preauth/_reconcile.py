"""Asks the gateway for evidence, ends doubts, compares the books. It sends enquiries only, and never money."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta

from attrs import define, field, frozen

from qfpay_preauth import _enquiry, _wire
from qfpay_preauth._calls import Call
from qfpay_preauth._events import move_event
from qfpay_preauth._findings import MARGIN, UNSURE
from qfpay_preauth._models import (
    Discrepancy,
    DiscrepancyKind,
    Entry,
    Event,
    Listing,
    Observed,
    Operation,
    Policy,
    ReconcileReport,
    SignedRequest,
    State,
    Transaction,
)
from qfpay_preauth._operations import Desk
from qfpay_preauth._turnstile import Turnstile
from qfpay_preauth.errors import PreauthError
from qfpay_preauth.ledger import After

log = logging.getLogger("qfpay_preauth")

DOUBTS_MAX = 100  # one window enquiry serves at most so many
READS_MAX = 4
AHEAD = timedelta(minutes=10)  # the gateway's clock may be ahead of ours
OVERLAP = timedelta(days=1)  # rows may come late into the gateway's list
USUAL_WINDOW = timedelta(days=7)  # QFPay, Pre-Authorisation: 7 days for most merchants
WARN_BEFORE = timedelta(days=1)
FIRST_PAUSE_S = 1.0
_FIRST_LOOK_S = 0.4
_LOOK_MAX_S = 5.0
_GATHER_S = 1.0  # one enquiry serves what is notified meanwhile


@frozen
class Reader:
    """Reads the gateway's transactions under one budget."""

    desk: Desk
    share: Turnstile | None = None

    async def page(self, request: SignedRequest) -> dict[str, object]:
        """One page of an enquiry; with a `share`, no faster than that allows."""
        call = Call(self.desk.clock.monotonic() + self.desk.settings.deadline_s)
        return await _enquiry.ask(self.desk, call, request, self.share)

    async def listing(
        self, since: datetime, until: datetime | None = None, *, syssn: Sequence[str] = (), number: Sequence[str] = ()
    ) -> Listing:
        """What the gateway shows from `since` on: every month, every page, read again until two reads agree."""
        whole = until is None and not syssn and not number
        before: tuple[datetime, list[Transaction]] | None = None
        for _ in range(READS_MAX):
            read_at = self.desk.clock.now()
            window = (since, until or read_at + AHEAD)
            rows = [row async for row in _enquiry.transactions(self.page, self.desk.sender, syssn, number, window)]
            # fewer rows than a page holds were one page each: nothing could shift between pages
            stable = len(rows) < _wire.PAGE_SIZE or (before is not None and _agree(*before, rows))
            if stable:
                break
            before = read_at, rows
        return Listing(tuple(rows), since, read_at, stable=stable, whole=whole)


def _agree(began: datetime, first: Sequence[Transaction], second: Sequence[Transaction]) -> bool:
    """Whether a second reading shows all that the first (begun at `began`) did, and nothing more but what is new.

    On a busy account something happens between any two readings; only a row that was there before and that one of them
    left out means that rows may be missing.
    """
    known = {row.syssn for row in first}
    more = [row for row in second if row.syssn not in known]
    new = all(row.system_time is not None and row.system_time >= began - MARGIN for row in more)
    return new and known <= {row.syssn for row in second}


@define
class Seen:
    """What the looks of a pass came to; `complete`: every list that they read showed all that was there."""

    observed: list[Observed] = field(factory=list)
    complete: bool = True

    def add(self, other: Seen) -> None:
        """Take in what another look came to."""
        self.observed += other.observed
        self.complete = self.complete and other.complete

    async def observe(self, desk: Desk, account: str, listing: Listing, policy: Policy, keys: Sequence[str]) -> bool:
        """Let the ledger weigh a listing; whether something in it has to be read again later."""
        observed = await desk.ledger.observe(account, listing, policy, keys)
        tell(desk, observed, listing.read_at)
        self.observed.append(observed)
        self.complete = self.complete and listing.stable
        return observed.waiting


class Seeker:
    """Looks for evidence about doubts; callers that ask at the same time share one look.

    What a notification named is looked up within reconciliation's `share` of the budget, many at a time: a busy
    merchant's other sales are notified as well, and must not keep captures waiting.
    """

    def __init__(self, desk: Desk, account: str, policy: Policy, share: Turnstile) -> None:
        self._desk = desk
        self._account = account
        self._policy = policy
        self._reader = Reader(desk)
        self._notified_reader = Reader(desk, share)
        self._waiting: dict[str, Entry] = {}
        self._syssns: set[str] = set()
        self._round: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._notified: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    async def seek(self, entry: Entry, deadline: float) -> Entry:
        """Look for evidence until `deadline` (monotonic seconds): first soon, then backing off, once near the end."""
        wait_s, last = _FIRST_LOOK_S, False
        while entry.unresolved and not last and not self._closing.is_set():
            left = deadline - self._desk.clock.monotonic()
            if left <= 0:
                break
            last = left <= 1.5 * wait_s
            await self._wait_unless_closing(0.9 * left if last else wait_s)
            if self._closing.is_set():
                break
            wait_s = min(wait_s * 2, _LOOK_MAX_S)
            self._waiting[entry.idempotency_key] = entry
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - self._desk.clock.monotonic())):
                    await asyncio.wait((self._join(),))
            entry = await self._desk.ledger.entry(entry.account, entry.idempotency_key) or entry
        return entry

    async def _wait_unless_closing(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    def nudge(self, syssn: str) -> None:
        """Look up one syssn soon (a notification named it)."""
        if not self._closing.is_set():
            self._syssns.add(syssn)
            if self._notified is None or self._notified.done():
                self._notified = asyncio.create_task(self._look_up())

    async def _look_up(self) -> None:
        while self._syssns:
            await self._wait_unless_closing(_GATHER_S)
            if self._closing.is_set():
                return
            part = sorted(self._syssns)[:DOUBTS_MAX]
            self._syssns.difference_update(part)
            await self._look(self._notified_reader, (), part)

    def _join(self) -> asyncio.Task[None]:
        """The look that will serve what waits now: the one after the one that is under way."""
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._serve(self._round))
        return self._next

    async def _serve(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait((before,))
        self._round, self._next = self._next, None
        entries, self._waiting = list(self._waiting.values()), {}
        for low in range(0, len(entries), DOUBTS_MAX):
            await self._look(self._reader, entries[low : low + DOUBTS_MAX])

    async def _look(self, reader: Reader, entries: Sequence[Entry], syssns: Sequence[str] = ()) -> None:
        try:
            await look(self._desk, reader, self._policy, self._account, entries, syssns)
        except PreauthError as error:
            log.warning("no evidence could be read: %s", error.args[0])  # the doubt stays, as it must

    async def close(self) -> None:
        """Stop looking; who waits for evidence gets its entry as it is."""
        self._closing.set()
        made = (self._round, self._next, self._notified)
        tasks = [task for task in made if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def look(  # noqa: PLR0917 - one look, with all that it needs
    desk: Desk, reader: Reader, policy: Policy, account: str, doubts: Sequence[Entry], syssns: Sequence[str] = ()
) -> Seen:
    """One look at the gateway for up to 100 doubts: by our own numbers, by known syssns, then the whole window."""
    seen = Seen()
    keys = [entry.idempotency_key for entry in doubts]
    # rows that are only perhaps too old must be seen as well
    since = min((entry.reserved_at for entry in doubts), default=desk.clock.now()) - UNSURE - MARGIN
    numbers = [e.out_trade_no for e in doubts if e.out_trade_no and e.operation is not Operation.UNFREEZE]
    linked = [*syssns, *(entry.result_syssn for entry in doubts if entry.result_syssn)]
    if numbers:
        await seen.observe(desk, account, await reader.listing(since, number=numbers), policy, keys)
    if linked:
        listing = await reader.listing(_first_day(linked, since), syssn=linked)
        await seen.observe(desk, account, listing, policy, keys)
    ended = {entry.idempotency_key for observed in seen.observed for entry in observed.ended}
    if any(key not in ended for key in keys):
        await seen.observe(desk, account, await reader.listing(since), policy, keys)
    return seen


def _first_day(syssns: Sequence[str], since: datetime) -> datetime:
    days = [day for each in syssns if (day := _enquiry.syssn_date(each)) is not None]
    return min([since, *days])


def tell(desk: Desk, observed: Observed, at: datetime) -> None:
    """Pass what evidence did on to the hook."""
    for entry in observed.ended:
        desk.emit(move_event(entry, State.IN_DOUBT, at))
    for movement in observed.foreign:
        desk.emit(
            Event(movement.account, at, "foreign", movement.authorization, amount=movement.amount, detail=movement.kind)
        )
    for each in observed.discrepancies:
        detail = f"{each.kind}: ours {each.ours}; theirs {each.theirs}"
        desk.emit(Event("", at, "discrepancy", each.authorization or "", each.idempotency_key, detail=detail))


# ------------------------------------------------------------------------------------------------ the whole pass


class Reconciler:
    """Compares our books with the gateway's, within a quarter of the minute's budget."""

    def __init__(self, desk: Desk, account: str, policy: Policy, share: Turnstile) -> None:
        self._desk = desk
        self._account = account
        self._policy = policy
        self._reader = Reader(desk, share)
        self._warned: set[str] = set()
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
        return ReconcileReport(
            ended=tuple(entry for observed in seen.observed for entry in observed.ended),
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

    async def end_doubts(self) -> Seen:
        """Look for evidence about every doubt, 100 at a time."""
        seen = Seen()
        entries = [entry async for entry in self.doubts()]
        for low in range(0, len(entries), DOUBTS_MAX):
            part = entries[low : low + DOUBTS_MAX]
            seen.add(await look(self._desk, self._reader, self._policy, self._account, part))
        return seen

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
                await reconciler.end_doubts()
        except PreauthError as error:
            log.warning("reconciliation could not go on: %s", error.args[0])  # the next pass tries again
        left = max(0.0, next_pass - monotonic())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left, pause_s)):
                await doubt.wait()
                pause_s = FIRST_PAUSE_S / 2
                await asyncio.sleep(FIRST_PAUSE_S)  # rows come a little after their answers
        doubt.clear()
        pause_s = min(2 * pause_s, interval_s)
