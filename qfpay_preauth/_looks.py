"""One look at the gateway: its list is read until two readings agree, and the ledger weighs what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from attrs import define, field, frozen

from qfpay_preauth import _enquiry, _wire
from qfpay_preauth._calls import Call
from qfpay_preauth._events import move_event
from qfpay_preauth._findings import MARGIN, UNSURE
from qfpay_preauth._models import (
    Discrepancy,
    Entry,
    Event,
    Listing,
    Observed,
    Operation,
    Policy,
    SignedRequest,
    State,
    Transaction,
)
from qfpay_preauth._operations import Desk
from qfpay_preauth._turnstile import Turnstile
from qfpay_preauth._windows import Lane
from qfpay_preauth.errors import PreauthError

log = logging.getLogger("qfpay_preauth")

DOUBTS_MAX = 100  # so many are looked up, or weighed, together
READS_MAX = 4
AHEAD = timedelta(minutes=10)  # the gateway's clock may be ahead of ours
_FIRST_LOOK_S = 0.4
_LOOK_MAX_S = 5.0
_GATHER_S, _GATHER_MAX_S = 1.0, 15.0  # one enquiry serves what is notified meanwhile: longer where it never ends


@frozen
class Reader:
    """Reads the gateway's transactions under one budget, in one lane."""

    desk: Desk
    share: Turnstile | None = None
    lane: Lane = Lane.INTERACTIVE

    async def page(self, request: SignedRequest) -> dict[str, object]:
        """One page of an enquiry; with a `share`, no faster than that allows."""
        call = Call(self.desk.clock.monotonic() + self.desk.settings.deadline_s, self.lane)
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
    _ended: set[str] = field(factory=set)

    def add(self, other: Seen) -> None:
        """Take in what another look came to."""
        self.observed += other.observed
        self.complete = self.complete and other.complete
        self._ended |= other._ended

    def not_ended(self, doubts: Sequence[Entry]) -> Sequence[Entry]:
        """Those of `doubts` that no look has ended yet."""
        return [entry for entry in doubts if entry.idempotency_key not in self._ended]

    async def observe(self, desk: Desk, account: str, listing: Listing, policy: Policy, keys: Sequence[str]) -> bool:
        """Let the ledger weigh a listing; whether something in it has to be read again later."""
        observed = await desk.ledger.observe(account, listing, policy, keys)
        tell(desk, observed, listing.read_at)
        self.observed.append(observed)
        self._ended.update(entry.idempotency_key for entry in observed.ended)
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
        self._notified_reader = Reader(desk, share)
        self._waiting: dict[str, tuple[Entry, Lane]] = {}
        self._syssns: set[str] = set()
        self._round: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None
        self._notified: asyncio.Task[None] | None = None
        self._gather_s, self._looked_up_at = _GATHER_S, -math.inf
        self._closing = asyncio.Event()

    async def seek(self, entry: Entry, deadline: float, lane: Lane = Lane.INTERACTIVE) -> Entry:
        """Look for evidence until `deadline` (monotonic seconds): first soon, then backing off, once near the end.

        `lane`: the one in which the entry's caller waits for the budget.
        """
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
            self._waiting[entry.idempotency_key] = entry, lane
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
            quiet_s = self._desk.clock.monotonic() - self._looked_up_at
            self._gather_s = min(2 * self._gather_s, _GATHER_MAX_S) if quiet_s < 2 * self._gather_s else _GATHER_S
            await self._wait_unless_closing(self._gather_s)
            if self._closing.is_set():
                return
            self._looked_up_at = self._desk.clock.monotonic()
            syssns, self._syssns = sorted(self._syssns), set()
            for low in range(0, len(syssns), DOUBTS_MAX):
                await self._look(self._notified_reader, (), syssns[low : low + DOUBTS_MAX])

    def _join(self) -> asyncio.Task[None]:
        """The look that will serve what waits now: the one after the one that is under way."""
        if self._next is None or self._next.done():
            self._next = asyncio.create_task(self._serve(self._round))
        return self._next

    async def _serve(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait((before,))
        self._round, self._next = self._next, None
        waiting, self._waiting = list(self._waiting.values()), {}
        lane = min((lane for _, lane in waiting), default=Lane.INTERACTIVE)  # the most urgent takes the others along
        await self._look(Reader(self._desk, lane=lane), [entry for entry, _ in waiting])

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
    """One look at the gateway: by our own numbers and known syssns, 100 doubts at a time, then the whole list, once.

    What is ended on the way is not looked for again: one list may end all doubts of its time.
    """
    seen = Seen()
    for part in _parts(doubts) or [()]:
        await _look_up(seen, desk, reader, policy, account, part, syssns)
    left = seen.not_ended(doubts)
    listing = await reader.listing(_since(left, desk)) if left else None
    while left and listing is not None:
        part, rest = left[:DOUBTS_MAX], left[DOUBTS_MAX:]
        await seen.observe(desk, account, listing, policy, [entry.idempotency_key for entry in part])
        left = seen.not_ended(rest)
    return seen


async def _look_up(  # noqa: PLR0917 - as above
    seen: Seen,
    desk: Desk,
    reader: Reader,
    policy: Policy,
    account: str,
    doubts: Sequence[Entry],
    syssns: Sequence[str],
) -> None:
    """By what names the rows: our own numbers, and the syssns that an answer or a notification told."""
    keys = [entry.idempotency_key for entry in doubts]
    since = _since(doubts, desk)
    numbers = [e.out_trade_no for e in doubts if e.out_trade_no and e.operation is not Operation.UNFREEZE]
    linked = [*syssns, *(entry.result_syssn for entry in doubts if entry.result_syssn)]
    if numbers:
        await seen.observe(desk, account, await reader.listing(since, number=numbers), policy, keys)
    if linked:
        listing = await reader.listing(_first_day(linked, since), syssn=linked)
        await seen.observe(desk, account, listing, policy, keys)


def _parts(doubts: Sequence[Entry]) -> list[Sequence[Entry]]:
    return [doubts[low : low + DOUBTS_MAX] for low in range(0, len(doubts), DOUBTS_MAX)]


def _since(doubts: Sequence[Entry], desk: Desk) -> datetime:
    # rows that are only perhaps too old must be seen as well
    return min((entry.reserved_at for entry in doubts), default=desk.clock.now()) - UNSURE - MARGIN


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
        tell_discrepancy(desk, each, at)


def tell_discrepancy(desk: Desk, each: Discrepancy, at: datetime) -> None:
    """Pass one difference on to the hook."""
    detail = f"{each.kind}: ours {each.ours}; theirs {each.theirs}"
    desk.emit(Event("", at, "discrepancy", each.authorization or "", each.idempotency_key, detail=detail))
