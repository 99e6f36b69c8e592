"""The two rate windows of one account where several processes share them: pure, kept by the ledger as a line of text.

QFPay, Rate limits: 100 requests a second and 400 a minute per merchant. A process draws permits in small blocks. Until
it says that it spent one, or gave it back, a permit counts as sent now; a block that nobody spoke of again (its process
was killed) counts as sent at its use-by, after which no process sends on it. So no window ever holds more than its
limit, counted at the moment of sending, whoever dies. Times are milliseconds of one clock that all its processes read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from enum import IntEnum

from attrs import evolve, frozen

SECOND_MS, MINUTE_MS = 1_000, 60_000
USE_WITHIN_MS = 10_000
"""A permit must be spent so soon after it was drawn; a body that would leave later does not leave."""
SOON_MS = 250
"""Permits that are not spent yet take room, and may give it back at any time: look again after this at the latest."""
_FINE_MAX = 1_000  # up to this many a minute each sending is remembered by itself; above, together in steps
_STEP_MS = 100
_AHEAD_MS = 1_000  # what is further in the future than this was written before the machine was started again


class Lane(IntEnum):
    """Who waits for the budget: a person, a batch, or reconciliation; in this order."""

    INTERACTIVE = 0
    BATCH = 1
    RECONCILIATION = 2


RESERVE: Mapping[Lane, float] = {Lane.INTERACTIVE: 0.0, Lane.BATCH: 0.05, Lane.RECONCILIATION: 0.05}
"""The part of the shared windows that a lane leaves to the interactive callers of other processes."""


@frozen
class Windows:
    """What one account's processes have sent within the last minute, and may be sending now."""

    spent: tuple[tuple[int, int], ...] = ()
    """(when, how many), oldest first."""
    blocks: tuple[tuple[int, int, int], ...] = ()
    """(number, permits outstanding, use-by)."""
    parked_until: int = 0
    drawn: int = 0
    """The number of the last block."""


@frozen
class Claim:
    """What a process asks of the windows, and tells them.

    `spent` and `returned` are (block, how many); the spent ones were sent at `spent_at` (by `now`'s clock, in seconds)
    at the latest. `park_s`: the gateway said 429, nobody may send for so long. `now` is read inside the ledger's
    transaction; a ledger with a clock of its own takes only differences from it.
    """

    name: str
    per_second: int | None
    per_minute: int
    wanted: int
    now: Callable[[], float]
    spent: tuple[tuple[int, int], ...] = ()
    spent_at: float = 0.0
    returned: tuple[tuple[int, int], ...] = ()
    park_s: float = 0.0


@frozen
class Grant:
    """A block of permits; none: ask again after `wait_s`."""

    block: int
    permits: int
    wait_s: float


def exchanged(windows: Windows, claim: Claim, now_ms: int, spent_ms: int) -> tuple[Windows, Grant]:
    """The windows after a claim, and what it was granted; `spent_ms` is the claim's `spent_at`."""
    windows = _told(_current(windows, now_ms), claim, now_ms, spent_ms)
    wait_ms = max(windows.parked_until - now_ms, 0)
    granted = 0
    if claim.wanted and not wait_ms:
        rates = [(claim.per_minute, MINUTE_MS)]
        if claim.per_second is not None:
            rates.append((claim.per_second, SECOND_MS))
        rooms = [(limit - _count(windows, width, now_ms), width) for limit, width in rates]
        granted = max(0, min(claim.wanted, *(room for room, _ in rooms)))
        if not granted:
            wait_ms = max(_wait_ms(windows, width, now_ms) for room, width in rooms if room <= 0)
    if granted:
        block = (windows.drawn + 1, granted, now_ms + USE_WITHIN_MS)
        windows = evolve(windows, blocks=(*windows.blocks, block), drawn=windows.drawn + 1)
    return windows, Grant(windows.drawn, granted, wait_ms / 1000)


def _current(windows: Windows, now_ms: int) -> Windows:
    """Without what has left the longest window, or was written before the machine was started again."""
    oldest, ahead = now_ms - MINUTE_MS, now_ms + _AHEAD_MS
    return evolve(
        windows,
        spent=tuple(each for each in windows.spent if oldest <= each[0] <= ahead),
        blocks=tuple(each for each in windows.blocks if each[1] and oldest <= each[2] <= ahead + USE_WITHIN_MS),
        parked_until=windows.parked_until if windows.parked_until <= now_ms + 24 * 60 * MINUTE_MS else 0,
    )


def _told(windows: Windows, claim: Claim, now_ms: int, spent_ms: int) -> Windows:
    """After what the process says of its permits."""
    over: dict[int, int] = {}
    for block, count in (*claim.spent, *claim.returned):
        over[block] = over.get(block, 0) + count
    left = [(number, count - over.get(number, 0), use_by) for number, count, use_by in windows.blocks]
    spent = dict(windows.spent)
    if sent := sum(count for _, count in claim.spent):
        step = 1 if claim.per_minute <= _FINE_MAX else _STEP_MS
        moment = -(-min(spent_ms, now_ms) // step) * step  # rounded up: it stays the longer
        spent[moment] = spent.get(moment, 0) + sent
    return evolve(
        windows,
        blocks=tuple(each for each in left if each[1] > 0),
        spent=tuple(sorted(spent.items())),
        parked_until=max(windows.parked_until, now_ms + round(claim.park_s * 1000))
        if claim.park_s
        else windows.parked_until,
    )


def _count(windows: Windows, width_ms: int, now_ms: int) -> int:
    """How many sendings a window that ends now may hold; both its ends belong to it."""
    begins = now_ms - width_ms
    sent = sum(count for moment, count in windows.spent if moment >= begins)
    return sent + sum(count for _, count, use_by in windows.blocks if use_by >= begins)


def _wait_ms(windows: Windows, width_ms: int, now_ms: int) -> int:
    """When to look again at a full window: when the first has left it, or soon where permits are not spent yet."""
    begins = now_ms - width_ms
    leaving = [moment for moment, _ in windows.spent if moment >= begins]
    leaving += [use_by for _, _, use_by in windows.blocks if begins <= use_by < now_ms]
    waits = [min(leaving) + width_ms + 1 - now_ms] if leaving else []
    if any(use_by >= now_ms for _, _, use_by in windows.blocks):
        waits.append(SOON_MS)
    return min(waits, default=SOON_MS)


def to_text(windows: Windows) -> str:
    """The line that the ledger keeps."""
    return json.dumps([windows.spent, windows.blocks, windows.parked_until, windows.drawn], separators=(",", ":"))


def from_text(text: str | None) -> Windows:
    """The windows of a line; of none: nothing was ever sent."""
    if text is None:
        return Windows()
    spent, blocks, parked_until, drawn = json.loads(text)
    return Windows(tuple(map(tuple, spent)), tuple(map(tuple, blocks)), parked_until, drawn)


def exchanged_text(text: str | None, claim: Claim, now_s: float) -> tuple[str | None, Grant]:
    """One exchange on the ledger's line, where its processes read one clock: the new line, or None where it stays."""
    now_ms = int(now_s * 1000)
    windows, grant = exchanged(from_text(text), claim, now_ms, math.ceil(claim.spent_at * 1000))
    says = claim.spent or claim.returned or claim.park_s or grant.permits
    return to_text(windows) if says else None, grant
