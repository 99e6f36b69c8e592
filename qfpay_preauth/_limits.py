"""The rate budget of one account: both of QFPay's windows, counted at the moment of sending.

QFPay, Rate limits: 100 requests a second and 400 a minute per merchant. A permit is taken before the ledger reserves,
and spent when the body leaves; in between it counts as sent now, so however long a request waits for its connection, no
window ever holds more sendings than its limit. The windows themselves are pyrate-limiter's sliding log.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable

from pyrate_limiter import Duration, InMemoryBucket, Rate, RateItem

from qfpay_preauth.errors import ConfigurationError, RateLimitedError

_ROOM_SOON_S = 0.01  # all room is taken by permits not yet spent: look again shortly


class Budget:
    """The two windows of one account in this process; safe to use from several threads."""

    def __init__(self, per_second: int | None, per_minute: int) -> None:
        rates = [Rate(per_minute, Duration.MINUTE)]
        if per_second is not None:
            rates.append(Rate(per_second, Duration.SECOND))
        try:
            self._log = InMemoryBucket(rates)
        except ValueError as error:
            raise ConfigurationError(
                f"requests_per_minute={per_minute} must be more than requests_per_second={per_second}, and at most "
                "60 times it."
            ) from error
        self._outstanding = 0
        self._lock = threading.Lock()

    def tighten(self, other: Budget) -> None:
        """Take over the other's limit of every window where it is lower."""
        with self._lock:
            for mine, others in zip(self._log.rates, other._log.rates, strict=True):
                mine.limit = min(mine.limit, others.limit)

    def take(self, now_ms: int) -> float:
        """Take a permit: 0.0 when it was given, else the seconds after which to ask again."""
        with self._lock:
            wait_ms = max(self._wait_ms(rate, now_ms) for rate in self._log.rates)
            if wait_ms <= 0:
                self._outstanding += 1
                return 0.0
        return wait_ms / 1000

    def _wait_ms(self, rate: Rate, now_ms: int) -> float:
        index = rate.limit - self._outstanding - 1
        if index < 0:
            return _ROOM_SOON_S * 1000
        item = self._log.peek(index)  # the newest is 0: one more fits if this one has left the window
        return 0 if item is None else item.timestamp + rate.interval - now_ms + 1

    def spend(self, now_ms: int) -> None:
        """The permit's request is being sent now."""
        with self._lock:
            self._outstanding -= 1
            self._log.leak(now_ms)
            self._log.put(RateItem("sent", now_ms))

    def give_back(self) -> None:
        """The permit's request was never sent."""
        with self._lock:
            self._outstanding -= 1


_budgets: weakref.WeakValueDictionary[tuple[str, str], Budget] = weakref.WeakValueDictionary()
_budgets_lock = threading.Lock()


def budget_for(url: str, account: str, per_second: int, per_minute: int) -> Budget:
    """The budget of an account at a gateway: one for all clients of this process, and the strictest that any asks.

    Raises:
        ConfigurationError: a pair of limits that sliding windows cannot hold.
    """
    new = Budget(per_second, per_minute)
    with _budgets_lock:
        budget = _budgets.setdefault((url, account), new)
        budget.tighten(new)
        return budget


class Permit:
    """The right to send one request; spent by sending, or given back."""

    __slots__ = ("_budget", "_now_ms", "_open")

    def __init__(self, budget: Budget, now_ms: Callable[[], int]) -> None:
        self._budget, self._now_ms, self._open = budget, now_ms, True

    def spend(self) -> None:
        """Count the request as sent now."""
        if self._open:
            self._open = False
            self._budget.spend(self._now_ms())

    def give_back(self) -> None:
        """Return what was not spent; after a spending it does nothing."""
        if self._open:
            self._open = False
            self._budget.give_back()


class Turnstile:
    """Callers of one event loop wait here in order."""

    def __init__(self, budget: Budget, monotonic: Callable[[], float]) -> None:
        self._budget = budget
        self._monotonic = monotonic
        self._first = asyncio.Lock()

    def try_permit(self) -> Permit | None:
        """A permit if one is free now and nobody waits for it."""
        if self._first.locked() or self._budget.take(self._now_ms()):
            return None
        return Permit(self._budget, self._now_ms)

    async def permit(self, deadline: float) -> Permit:
        """Wait for a permit until `deadline` (monotonic seconds).

        Raises:
            RateLimitedError: the budget has no room before the deadline; nothing was written or sent.
        """
        try:
            async with asyncio.timeout(max(0.0, deadline - self._monotonic())), self._first:
                while wait_s := self._budget.take(self._now_ms()):
                    if self._monotonic() + wait_s > deadline:
                        raise _no_room(wait_s)
                    await asyncio.sleep(wait_s)
        except TimeoutError:
            raise _no_room(None) from None
        return Permit(self._budget, self._now_ms)

    def _now_ms(self) -> int:
        return int(self._monotonic() * 1000)


def _no_room(wait_s: float | None) -> RateLimitedError:
    return RateLimitedError("Our own rate budget has no room before the deadline.", retry_after_s=wait_s)
