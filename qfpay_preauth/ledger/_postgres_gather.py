"""Waiting a moment, between two transactions, for those who were in the last one.

Callers who were answered together come back together, a little after a transaction that began at once would have left
without them. What they ask then costs one transaction rather than two or three.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FEW, MANY = 4, 32  # so few callers are not worth waiting for; so many share a transaction well enough as it is
WAIT_SHARE = 0.5  # of what the last transaction took
WAIT_MAX_S = 0.005
PAUSES_MAX = 64  # transactions for which it is not tried again, where nobody came


class Gathering:
    """Of one line. Where the callers do not come back in time it is tried again ever more seldom."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting = waiting
        self._enough = 0
        self._came: asyncio.Future[bool] | None = None
        self._pauses = self._pause = 0

    async def wait(self, served: int, took_s: float) -> None:
        """Until most of them are back. `served`: how many were in the last transaction, which took so long."""
        around = served + self._waiting()
        if not FEW < around <= MANY:
            return
        if self._pauses:
            self._pauses -= 1
            return
        await asyncio.sleep(0)  # those who were answered run now
        if self._came is not None:  # another lane waits for them already
            return
        self._enough = around * 3 // 4
        came = self._waiting() >= self._enough or await self._most_came(min(took_s * WAIT_SHARE, WAIT_MAX_S))
        self._pause = 0 if came else min(2 * self._pause + 1, PAUSES_MAX)
        self._pauses = self._pause

    async def _most_came(self, wait_s: float) -> bool:
        came: asyncio.Future[bool] = self._loop.create_future()
        self._came = came
        timer = self._loop.call_later(wait_s, _end, came, False)
        try:
            return await came
        finally:
            timer.cancel()
            self._came = None

    def arrived(self) -> None:
        """Somebody did."""
        if self._came is not None and self._waiting() >= self._enough:
            _end(self._came, True)


def _end(came: asyncio.Future[bool], how: bool) -> None:
    if not came.done():
        came.set_result(how)
