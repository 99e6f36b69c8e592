"""The rate budget of one account in this process: both of QFPay's windows, counted at the moment of sending.

QFPay, Rate limits: 100 requests a second and 400 a minute per merchant. A permit is taken before the ledger reserves,
and spent when the body leaves; in between it counts as sent now, so however long a request waits for its connection, no
window ever holds more sendings than its limit. A 429 parks all callers, and then one alone tries.

The windows are logs of our own: a library's bucket keeps an object for each sending, which for a minute of a batch is
many megabytes, and knows nothing of permits that are not spent yet.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque

from qfpay_preauth.errors import ConfigurationError

_SECOND_MS, _MINUTE_MS = 1_000, 60_000
_ROOM_SOON_S = 0.01  # all room is taken by permits not yet spent: look again shortly
_FINE_MAX, _STEPS = 1_000, 1_000
_PROBE_LOOK_S = 0.05  # one request finds out whether the gateway takes requests again
_PARK_FIRST_S, _PARK_MAX_S = 0.25, 30.0  # after a 429 that names no time, doubled each time


class Window:
    """When the last requests were sent: a sliding log of `width_ms`, both of whose ends belong to it.

    Up to a thousand requests it knows each one's millisecond. Above, that would be megabytes for a minute of a batch:
    it takes some milliseconds together, each request for the last of them, so that it stays in the window the longer.
    """

    __slots__ = ("_count", "_sent", "limit", "width_ms")

    def __init__(self, limit: int, width_ms: int) -> None:
        self.limit = limit
        self.width_ms = width_ms
        self._sent: deque[list[int]] = deque()
        """[when, how many], oldest first."""
        self._count = 0

    def add(self, now_ms: int) -> None:
        """A request is being sent now."""
        step_ms = 1 if self.limit <= _FINE_MAX else self.width_ms // _STEPS
        when = -(-now_ms // step_ms) * step_ms
        self._count += 1
        if self._sent and self._sent[-1][0] >= when:
            self._sent[-1][1] += 1
        else:
            self._sent.append([when, 1])

    def wait_ms(self, now_ms: int, outstanding: int) -> float:
        """0 where one more may be sent while `outstanding` others count as sent now; else when to ask again."""
        sent, ends = self._sent, now_ms - self.width_ms
        while sent and sent[0][0] < ends:
            self._count -= sent.popleft()[1]
        over = self._count + outstanding + 1 - self.limit
        if over <= 0:
            return 0
        return _ROOM_SOON_S * 1000 if over > self._count else self._leaves(over) + self.width_ms - now_ms + 1

    def _leaves(self, count: int) -> int:
        """When the last of the `count` oldest was sent."""
        for when, many in self._sent:
            count -= many
            if count <= 0:
                return when
        raise AssertionError("it holds fewer")


class Budget:
    """The two windows of one account in this process; safe to use from several threads."""

    def __init__(self, per_second: int | None, per_minute: int) -> None:
        if per_second is not None and not per_second < per_minute <= 60 * per_second:
            raise ConfigurationError(
                f"requests_per_minute={per_minute} must be more than requests_per_second={per_second}, and at most "
                "60 times it."
            )
        self._windows = [Window(per_minute, _MINUTE_MS)]
        if per_second is not None:
            self._windows.append(Window(per_second, _SECOND_MS))
        self._outstanding = 0
        self._parked_until_ms = 0
        self._strikes = 0  # 429s since a request last came through
        self.probing = False
        """Whether one request alone is trying, after a 429; asked by who just took a permit: whether it is that one."""
        self._lock = threading.Lock()

    def tighten(self, other: Budget) -> None:
        """Take over the other's limit of every window where it is lower."""
        with self._lock:
            for mine, others in zip(self._windows, other._windows, strict=True):
                mine.limit = min(mine.limit, others.limit)

    def take(self, now_ms: int) -> float:
        """Take a permit: 0.0 when it was given, else the seconds after which to ask again."""
        with self._lock:
            if now_ms < self._parked_until_ms:
                return (self._parked_until_ms - now_ms) / 1000
            if self.probing:
                return _PROBE_LOOK_S
            wait_ms = self._wait_ms(now_ms)
            if wait_ms <= 0:
                self._outstanding += 1
                self.probing = self._strikes > 0
                return 0.0
        return wait_ms / 1000

    def limited(self, now_ms: int, retry_after_s: float | None) -> float:
        """The gateway said 429: nobody sends for a while, and then one alone tries. Returns the seconds."""
        with self._lock:
            if now_ms >= self._parked_until_ms:  # the first of those that were under way together
                self._strikes += 1
            park_s = (
                min(_PARK_FIRST_S * 2 ** (self._strikes - 1), _PARK_MAX_S) if retry_after_s is None else retry_after_s
            )
            self._parked_until_ms = max(self._parked_until_ms, now_ms + round(park_s * 1000))
            return (self._parked_until_ms - now_ms) / 1000

    def probed(self, passed: bool) -> None:
        """The one that tried has ended; if the gateway took it, all others may follow."""
        with self._lock:
            self.probing = False
            if passed:
                self._strikes = 0

    def _wait_ms(self, now_ms: int) -> float:
        wait_ms = 0.0
        for window in self._windows:
            wait_ms = max(wait_ms, window.wait_ms(now_ms, self._outstanding))
        return wait_ms

    def spend(self, now_ms: int) -> None:
        """The permit's request is being sent now."""
        with self._lock:
            self._outstanding -= 1
            for window in self._windows:
                window.add(now_ms)

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
