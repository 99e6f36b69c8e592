"""How rows come into a batch and outcomes leave it: one at a time, and never more than somebody takes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from qfpay_preauth._batch_rows import BatchOutcome


class Source:
    """The rows, one at a time; `ended` after the last, or after the iterator raised."""

    def __init__(self, rows: Iterable[object] | AsyncIterable[object]) -> None:
        self.ended = False
        self._reader: asyncio.Task[object] | None = None
        self.ahead: AsyncIterator[object] | None = None
        self._next: Iterator[object] = iter(())
        if isinstance(rows, AsyncIterable):
            self.ahead = aiter(rows)
        else:
            self._next = iter(rows)

    @property
    def reading(self) -> bool:
        """Whether somebody waits for the next row of an async iterable."""
        return self._reader is not None

    def give_up(self) -> None:
        """Wait for no further row: whoever does is cancelled."""
        if self._reader is not None:
            self._reader.cancel()

    def take(self) -> object:
        """The next row of an iterable."""
        try:
            return next(self._next)
        except StopIteration:
            self.ended = True
            return None
        except BaseException:
            self.ended = True
            raise

    async def take_ahead(self) -> object:
        """The next row of an async iterable."""
        assert self.ahead is not None  # noqa: S101 - the caller looked
        self._reader = asyncio.current_task()
        try:
            return await anext(self.ahead)
        except StopAsyncIteration:
            self.ended = True
            return None
        except BaseException:
            self.ended = True
            raise
        finally:
            self._reader = None


class Bell:
    """Who has nothing to do waits here until something has changed."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        except asyncio.CancelledError:
            if future in self._waiting:  # else somebody rang, and has passed it by
                self._waiting.remove(future)
            raise

    def ring(self) -> None:
        """Wake one."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return

    def ring_all(self) -> None:
        """Wake all that wait now."""
        for _ in range(len(self._waiting)):
            self.ring()


class Channel:
    """Outcomes on their way to the consumer: `put` waits while `limit` of them are not taken."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._outcomes: deque[BatchOutcome] = deque()
        self._room, self._more = Bell(), Bell()
        self._closed = self._ended = False

    def offer(self, outcome: BatchOutcome) -> bool:
        """Put it if there is room."""
        if len(self._outcomes) >= self._limit:
            return False
        self.force(outcome)
        return True

    async def put(self, outcome: BatchOutcome) -> None:
        """Put it as soon as there is room (or nobody takes any more)."""
        while len(self._outcomes) >= self._limit and not self._closed:
            await self._room.wait()
        self.force(outcome)

    def force(self, outcome: BatchOutcome) -> None:
        """Put it without waiting for room."""
        self._outcomes.append(outcome)
        self._more.ring()

    async def get(self) -> BatchOutcome | None:
        """The next outcome; None: no more will come."""
        while not self._outcomes:
            if self._ended:
                return None
            await self._more.wait()
        self._room.ring()
        return self._outcomes.popleft()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._more.ring_all()

    def close(self) -> None:
        """Nobody takes any more: `put` waits no longer."""
        self._closed = True
        self._room.ring_all()
