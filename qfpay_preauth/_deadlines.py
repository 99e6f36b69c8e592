"""When an exchange must have ended: one timer for all of them, where `asyncio.timeout` sets and unsets one for each."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Deadlines:
    """The deadlines of one event loop's exchanges."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open: set[Deadline] = set()
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> Deadline:
        """A block that raises TimeoutError where it takes longer; as `asyncio.timeout`, by cancelling its task."""
        return Deadline(self, self._loop.time() + seconds)

    def close(self) -> None:
        """Forget the timer; nothing is under way any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def begin(self, deadline: Deadline) -> None:
        """See Deadline."""
        self._open.add(deadline)
        if self._timer is None or deadline.when < self._timer.when():
            self._set_timer(deadline.when)

    def end(self, deadline: Deadline) -> None:
        """See Deadline; the timer stays: the next exchange needs it soon."""
        self._open.discard(deadline)

    def _set_timer(self, when: float) -> None:
        self.close()
        self._timer = self._loop.call_at(when, self._pass, when)

    def _pass(self, when: float) -> None:
        self._timer = None
        for deadline in [each for each in self._open if each.when <= when]:
            self._open.discard(deadline)
            deadline.passes()
        if self._open:
            self._set_timer(min(each.when for each in self._open))


class Deadline:
    """One block and the moment (the loop's time) by which it must have ended."""

    __slots__ = ("_all", "_cancelling", "_passed", "_task", "when")

    def __init__(self, all_of_them: Deadlines, when: float) -> None:
        self._all = all_of_them
        self.when = when
        self._passed = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - exchanges run in tasks
        self._task, self._cancelling = task, task.cancelling()
        self._all.begin(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.end(self)
        # a cancellation that somebody else asked for as well stays one
        if self._passed and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def passes(self) -> None:
        """It is over: whatever the block waits for is given up."""
        self._passed = True
        self._task.cancel()
