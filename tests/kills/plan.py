"""Which keys exist and what each wants: a function of seed and lap, so that a restarted process has the same ones."""

from __future__ import annotations

import random

from attrs import frozen

SHARED = 0
"""The number of the list that all workers work through; the workers' own lists are 1, 2, 3 …"""

WIDE, TIGHT, CLOSING = range(3)
"""The three holds of a lap: room for everything, room for a few captures, and one that somebody unfreezes."""

_EACH = 12


@frozen
class Job:
    """One key: a capture of `amount` on a hold of the lap (and perhaps a refund of it), or the unfreeze (amount 0)."""

    key: str
    hold: int
    amount: int
    refund: bool = False


def jobs(seed: int, lap: int, owner: int) -> list[Job]:
    """The keys of one owner in one lap. No two keys of a round want a capture of the same amount."""
    dice = random.Random(f"{seed}/{lap}/{owner}")
    first = unit(lap) + owner * 1_000
    found = []
    for number in range(_EACH):
        key = f"lap{lap}/{owner}/{number}"
        hold = dice.choice((WIDE, WIDE, TIGHT, CLOSING))
        found.append(Job(key, hold, first + number, refund=dice.random() < 0.4))
    found.append(Job(f"lap{lap}/{owner}/close", CLOSING, 0))
    dice.shuffle(found)
    return found


def unit(lap: int) -> int:
    """Captures of a lap are of this and a little more."""
    return 10_000 * (lap + 1)


def hold_amounts(lap: int) -> tuple[int, int, int]:
    """What the three holds of a lap are for."""
    return 90_000_000, 5 * unit(lap), 40 * unit(lap)
