"""This process's part of windows that several processes share through their ledger.

Permits come in small blocks, so that not every request asks the ledger: of wide budgets a few at first, then twice as
many as were used since the last draw, up to a bound. What was spent is told with the next draw, or a moment later. What
lies unused for a second is given back: another process may need it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from attrs import evolve

from qfpay_preauth._windows import USE_WITHIN_MS, Claim, Grant
from qfpay_preauth.errors import LedgerUnavailableError

log = logging.getLogger("qfpay_preauth")

TELL_AFTER_S = 0.25
IDLE_S = 1.0
_LAPSE_MARGIN_S = 5.0  # a permit that lapses sooner is given back rather than handed out
_BLOCK_SHARE = 20  # a block is at most this part of a second's limit: a killed process keeps it for a while
_BLOCK_FIRST = 8  # and this, in the beginning: processes that are killed as soon as they start keep little

Draw = Callable[[Claim], Awaitable[Grant]]


class Part:
    """What is left of a block of permits; good until `use_by` (monotonic seconds)."""

    __slots__ = ("block", "left", "use_by")

    def __init__(self, block: int, left: int, use_by: float) -> None:
        self.block, self.left, self.use_by = block, left, use_by


class Share:
    """What one process has drawn of one account's windows, on one event loop.

    Args:
        draw: the ledger's verb.
        terms: what is asked each time; the limits of the lane are passed with each draw.
    """

    def __init__(self, draw: Draw, terms: Claim) -> None:
        self._draw = draw
        self._terms = terms
        self._free: list[Part] = []
        self._spent: Counter[int] = Counter()
        self._returned: Counter[int] = Counter()
        self._spent_at = self._taken_at = 0.0
        self._park_until = 0.0
        self._teller: asyncio.Task[None] | None = None
        self._waits = True
        self._closed = False
        self._used = 0  # since the last draw
        self._block = max(1, (terms.per_second or terms.per_minute // 60) // _BLOCK_SHARE)

    def take(self) -> Part | None:
        """A permit that was drawn before, or None."""
        while self._free:
            part = self._free[-1]
            now = self._terms.now()
            if part.use_by - now > _LAPSE_MARGIN_S:
                self._taken_at = now
                self._used += 1
                part.left -= 1
                if not part.left:
                    self._free.pop()
                return part
            self._return(self._free.pop())
        return None

    async def refill(self, waiting: int, reserve: float, *, ahead: bool) -> float:
        """Draw for `waiting` callers, and some `ahead`, leaving the part `reserve` of the limits to others.

        Returns: 0.0 when something came, else the seconds after which to ask again.

        Raises:
            LedgerUnavailableError: the ledger could not be asked.
        """
        asked = self._terms.now()
        per_second, per_minute = self._terms.per_second, self._terms.per_minute
        block, self._used = min(self._block, max(_BLOCK_FIRST, 2 * self._used)), 0
        grant = await self._exchange(
            evolve(
                self._terms,
                wanted=max(waiting, block) if ahead else waiting,
                per_second=None if per_second is None else _less(per_second, reserve),
                per_minute=_less(per_minute, reserve),
            )
        )
        use_by = asked + USE_WITHIN_MS / 1000
        if grant.permits:
            self._free.append(Part(grant.block, grant.permits, use_by))
        return 0.0 if grant.permits else grant.wait_s

    def spend(self, part: Part) -> None:
        """The permit's request is being sent now."""
        self._spent[part.block] += 1
        self._spent_at = self._terms.now()
        self._tell_later()

    def give_back(self, part: Part) -> None:
        """The permit's request was never sent: the next may have it."""
        part.left += 1
        if part.left == 1:
            self._free.append(part)
        self._tell_later()

    def park(self, seconds: float) -> None:
        """The gateway said 429: all processes wait."""
        self._park_until = max(self._park_until, self._terms.now() + seconds)
        if self._teller is not None and self._waits:
            self._teller.cancel()  # this is not to wait
            self._teller = None
        self._tell_later()

    async def close(self) -> None:
        """Tell what is left to tell, and give everything back. What comes back later counts until its use-by."""
        self._closed = True
        if self._teller is not None:
            if self._waits:
                self._teller.cancel()
            await asyncio.wait((self._teller,))
        self._return_all()
        await self._tell()

    def _return(self, part: Part) -> None:
        self._returned[part.block] += part.left
        part.left = 0

    def _tell_later(self) -> None:
        if self._teller is None and not self._closed:
            self._teller = asyncio.create_task(self._tell_soon())

    async def _tell_soon(self) -> None:
        """Tell, again and again, until nothing is left to be told or to be given back."""
        try:
            while not self._closed and (self._free or self._spent or self._returned or self._park_until):
                self._waits = True
                await asyncio.sleep(0 if self._park_until else TELL_AFTER_S)
                self._waits = False
                if self._terms.now() - self._taken_at >= IDLE_S:
                    self._return_all()
                if not await self._tell():
                    break  # the next draw will
        finally:
            if self._teller is asyncio.current_task():
                self._teller = None

    def _return_all(self) -> None:
        while self._free:
            self._return(self._free.pop())

    async def _tell(self) -> bool:
        """Whether there is nothing left to be told."""
        if not (self._spent or self._returned or self._park_until):
            return True
        try:
            await self._exchange(self._terms)
            return True
        except LedgerUnavailableError as error:
            # until it is told, it counts as sent now, so no window gets too full; whoever needs a permit hears of it
            log.debug("what was sent could not be told to the other processes yet: %s", error)
            return False

    async def _exchange(self, claim: Claim) -> Grant:
        """Ask and tell in one; what could not be told is told the next time."""
        spent, returned, park_until = self._spent, self._returned, self._park_until
        self._spent, self._returned, self._park_until = Counter(), Counter(), 0.0
        told = evolve(
            claim,
            spent=tuple(spent.items()),
            returned=tuple(returned.items()),
            spent_at=self._spent_at,
            park_s=max(0.0, park_until - self._terms.now()),  # told late, it ends no later
        )
        try:
            return await self._draw(told)
        except BaseException:
            # a sending told twice only counts twice; a return must not be: the permit then lapses by itself
            self._spent += spent
            self._park_until = max(self._park_until, park_until)
            raise


def _less(limit: int, reserve: float) -> int:
    return max(1, limit - int(limit * reserve))
