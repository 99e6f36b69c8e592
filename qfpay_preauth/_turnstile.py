"""Where callers wait for the rate budget: lane by lane, in order, and together with other processes' callers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from attrs import define

from qfpay_preauth._limits import Budget
from qfpay_preauth._share import Part, Share
from qfpay_preauth._windows import RESERVE, Lane
from qfpay_preauth.errors import LedgerUnavailableError, NotSentError, RateLimitedError

_FAIR_EVERY = 8  # so often the longest waiting caller goes first, whatever its lane


class Permit:
    """The right to send one request; spent by sending, or given back."""

    __slots__ = ("_open", "_part", "_passed", "_probe", "_turnstile")

    def __init__(self, turnstile: Turnstile, part: Part | None) -> None:
        self._turnstile, self._part = turnstile, part
        self._open, self._passed, self._probe = True, False, turnstile.budget.probing

    @property
    def lapsed(self) -> bool:
        """Whether it was drawn so long ago that other processes may count it as spent already."""
        return self._part is not None and self._turnstile.monotonic() >= self._part.use_by

    def spend(self) -> None:
        """Count the request as sent now."""
        if self._open:
            self._open = False
            self._turnstile.spend(self._part)

    def give_back(self) -> None:
        """The request has ended. A permit that was not spent is returned."""
        if self._open:
            self._open = False
            self._turnstile.give_back(self._part)
        if self._probe:
            self._probe = False
            self._turnstile.budget.probed(self._passed)

    def told(self, limited: bool, retry_after_s: float | None) -> None:
        """What the gateway said to the request: a 429 (and after how long to come again), or anything else."""
        if limited:
            self._turnstile.park(retry_after_s)
        else:
            self._passed = True


@define(eq=False)
class _Waiter:
    future: asyncio.Future[Permit | None]
    deadline: float
    number: int
    patient: bool


class Turnstile:
    """Callers of one event loop wait here, lane by lane and in order; `share`: with other processes' callers too."""

    def __init__(self, budget: Budget, monotonic: Callable[[], float], share: Share | None = None) -> None:
        self.budget = budget
        self.monotonic = monotonic
        self._share = share
        self._lanes: dict[Lane, deque[_Waiter]] = {lane: deque() for lane in Lane}
        self._pump: asyncio.Task[None] | None = None
        self._pumps: set[asyncio.Task[None]] = set()  # with those that were woken, and are ending
        self._nap_until, self._nap_lane = 0.0, Lane.INTERACTIVE
        self._came = self._served = 0
        self._closed = False

    def try_permit(self) -> Permit | None:
        """A permit if one is free now and nobody waits for it."""
        if self._pump is not None or self.budget.take(int(self.monotonic() * 1000)):
            return None
        if self._share is None:
            return Permit(self, None)
        part = self._share.take()
        if part is None:
            Permit(self, None).give_back()
            return None
        return Permit(self, part)

    async def permit(self, deadline: float, lane: Lane = Lane.INTERACTIVE) -> Permit:
        """Wait for a permit until `deadline` (monotonic seconds).

        Raises:
            RateLimitedError, NotSentError, LedgerUnavailableError: as `soon`.
        """
        permit = await self._join(deadline, lane, patient=True)
        assert permit is not None  # noqa: S101 - who is patient is not sent away with nothing
        return permit

    async def soon(self, deadline: float, lane: Lane = Lane.INTERACTIVE) -> Permit | None:
        """A permit, if the windows have room for it: at most the ledger is asked for it; None: it takes a wait.

        Raises:
            RateLimitedError: the budget has no room before the deadline; nothing was written or sent.
            NotSentError: the client was closed.
            LedgerUnavailableError: the windows are shared, and the ledger could not be asked.
        """
        return await self._join(deadline, lane, patient=False)

    async def _join(self, deadline: float, lane: Lane, *, patient: bool) -> Permit | None:
        if self._closed:
            raise _closed()
        if self._nap_until and lane < self._nap_lane:
            self._wake()  # what those behind wait for may be room that is kept for this one
        if self._nap_until and not patient:
            return None
        if self._nap_until > deadline:
            raise _no_room(self._nap_until - self.monotonic())
        self._came += 1
        waiter = _Waiter(asyncio.get_running_loop().create_future(), deadline, self._came, patient)
        self._lanes[lane].append(waiter)
        if self._pump is None:
            self._start()
        try:
            async with asyncio.timeout(max(0.0, deadline - self.monotonic())):
                return await waiter.future
        except BaseException as error:
            self._leave(waiter, lane)
            if isinstance(error, TimeoutError):
                raise _no_room(None) from None
            raise

    def spend(self, part: Part | None) -> None:
        """See Permit.spend."""
        self.budget.spend(int(self.monotonic() * 1000))
        if part is not None and self._share is not None:
            self._share.spend(part)

    def give_back(self, part: Part | None) -> None:
        """See Permit.give_back."""
        self.budget.give_back()
        if part is not None and self._share is not None:
            self._share.give_back(part)

    def park(self, retry_after_s: float | None) -> None:
        """See Budget.limited; the other processes are told."""
        seconds = self.budget.limited(self._now_ms(), retry_after_s)
        if self._share is not None:
            self._share.park(seconds)

    async def close(self) -> None:
        """Send everybody away and give back what was drawn."""
        self._closed = True
        self._send_away(float("inf"), _closed)
        for pump in self._pumps:
            pump.cancel()
        if self._pumps:
            await asyncio.wait(tuple(self._pumps))
        if self._share is not None:
            await self._share.close()

    # ------------------------------------------------------------------ the one who lets in

    async def _serve(self) -> None:
        try:
            while any(self._lanes.values()):
                if wait_s := await self._let_in():
                    self._let_go()
                    if not any(self._lanes.values()):
                        break
                    self._nap_until, self._nap_lane = self.monotonic() + wait_s, self._first_lane()
                    self._send_away(self._nap_until, partial(_no_room, wait_s))
                    await asyncio.sleep(wait_s)
                    self._nap_until = 0.0
        except Exception as error:
            self._send_away(float("inf"), partial(_again, error))
        finally:
            if self._pump is asyncio.current_task():
                self._pump = None

    async def _let_in(self) -> float:
        """Let the next one in: 0.0, or the seconds after which to try again."""
        if wait_s := self.budget.take(self._now_ms()):
            return wait_s
        part = None
        if self._share is not None:
            part = self._share.take()
            if part is None:
                Permit(self, None).give_back()
                return await self._refill(self._share)
        lane = self._next_lane()
        if lane is None:
            Permit(self, part).give_back()
        else:
            self._lanes[lane].popleft().future.set_result(Permit(self, part))
            self._served += 1
        return 0.0

    async def _refill(self, share: Share) -> float:
        lane = self._first_lane()
        alone = sum(map(bool, self._lanes.values())) == 1
        return await share.refill(len(self._lanes[lane]), RESERVE[lane], ahead=alone)

    def _first_lane(self) -> Lane:
        return min((lane for lane, callers in self._lanes.items() if callers), default=Lane.INTERACTIVE)

    def _next_lane(self) -> Lane | None:
        """Lane by lane; every so often the one that waits longest, so that no lane starves."""
        for callers in self._lanes.values():
            while callers and callers[0].future.done():  # it was just cancelled, and has not run yet
                callers.popleft()
        waiting = [lane for lane, callers in self._lanes.items() if callers]
        if self._served % _FAIR_EVERY == _FAIR_EVERY - 1:
            waiting.sort(key=lambda lane: self._lanes[lane][0].number)
        return waiting[0] if waiting else None

    def _send_away(self, until: float, error: Callable[[], Exception]) -> None:
        """Tell those whose deadline is before `until` that they wait in vain."""
        for callers in self._lanes.values():
            for waiter in [each for each in callers if each.deadline < until]:
                callers.remove(waiter)
                if not waiter.future.done():
                    waiter.future.set_exception(error())

    def _let_go(self) -> None:
        """Those who do not want to wait learn that they would have to."""
        for callers in self._lanes.values():
            for waiter in [each for each in callers if not each.patient]:
                callers.remove(waiter)
                if not waiter.future.done():
                    waiter.future.set_result(None)

    def _leave(self, waiter: _Waiter, lane: Lane) -> None:
        """A caller that was cancelled or too late: out of the line, and a permit that it just got goes back."""
        if waiter in self._lanes[lane]:
            self._lanes[lane].remove(waiter)
        future = waiter.future
        if future.done() and not future.cancelled() and future.exception() is None and (permit := future.result()):
            permit.give_back()
        if self._nap_until and not any(self._lanes.values()):
            self._wake()  # it naps for nobody

    def _wake(self) -> None:
        """End the nap; who still waits gets another pump."""
        if self._pump is not None:
            self._pump.cancel()
        self._pump, self._nap_until = None, 0.0
        if any(self._lanes.values()):
            self._start()

    def _start(self) -> None:
        self._pump = asyncio.create_task(self._serve())
        self._pumps.add(self._pump)
        self._pump.add_done_callback(self._pumps.discard)

    def _now_ms(self) -> int:
        return int(self.monotonic() * 1000)


def _closed() -> NotSentError:
    return NotSentError("The client was closed before this was sent.")


def _again(error: Exception) -> Exception:
    """The same for each caller, as an error of its own: each gets its own key written on it."""
    if not isinstance(error, LedgerUnavailableError):
        return error
    each = LedgerUnavailableError(*error.args)
    each.__cause__ = error
    return each


def _no_room(wait_s: float | None) -> RateLimitedError:
    return RateLimitedError("Our own rate budget has no room before the deadline.", retry_after_s=wait_s)
