"""The tasks that own exchanges. A caller may leave; the exchange and its conclusion run to their end.

Cancelling a caller before any byte left calls the request off (`not_sent`); after that it only loses the answer, never
the charge: the entry is concluded all the same.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, Protocol, TypeVar

from qfpay_preauth._windows import Lane
from qfpay_preauth.errors import NotSentError, Outcome

T = TypeVar("T")

_numbers = itertools.count(1)


class NoTurn(Exception):
    """The turn did not come in time; never leaves the building: the operation says what that means for its key."""


class Handed(Protocol):
    """What a call needs to know of its request's body."""

    taken: bool


class Call:
    """One public call: its deadline (monotonic seconds), its lane, who it belongs to, and how far it got."""

    __slots__ = ("_guarded", "body", "deadline", "group", "lane", "left", "number", "task")

    def __init__(self, deadline: float, lane: Lane = Lane.INTERACTIVE, group: object = None) -> None:
        self.number = next(_numbers)
        self.deadline = deadline
        self.lane = lane
        self.group = group
        self.body: Handed | None = None
        self.task: asyncio.Task[Any] | None = None
        self.left = False
        self._guarded = False

    async def guarded(self, ledger_verb: Awaitable[T]) -> T:
        """Await a ledger verb that must not be interrupted: a cancelled write still lands, unseen."""
        self._guarded = True
        try:
            return await ledger_verb
        finally:
            self._guarded = False

    def abandon(self, *, even_if_sent: bool = False) -> None:
        """The caller left (or the client closes): call off what provably has not left."""
        self.left = True
        sent = self.body is not None and self.body.taken
        if self.task is not None and not self._guarded and (even_if_sent or not sent):
            self.task.cancel()

    @property
    def off(self) -> bool:
        """Whether nobody wants it to be sent any more."""
        return self.left or (self.task is not None and self.task.cancelling() > 0)


class Calls:
    """All calls of one client on one event loop."""

    def __init__(self) -> None:
        self._live: dict[asyncio.Task[Any], Call] = {}

    async def run(self, call: Call, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in a task of its own and wait for it; if the waiting is cancelled, the work decides itself."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        call.task = task = loop.create_task(work)
        self._live[task] = call
        task.add_done_callback(partial(self._ended, ended))
        try:
            await ended
        except asyncio.CancelledError:
            call.abandon()
            raise
        if task.cancelled():
            # it sent nothing, or was looking for evidence; what its key did, nobody has looked up
            raise NotSentError("The call was called off.", outcome=Outcome.UNKNOWN)
        return task.result()

    def call_off(self, group: object) -> None:
        """Stop what was not sent yet of the calls of a group; what was sent runs on to its answer."""
        for call in tuple(self._live.values()):
            if call.group is group:
                call.abandon()

    def _ended(self, ended: asyncio.Future[None], task: asyncio.Task[Any]) -> None:
        del self._live[task]
        if not task.cancelled():
            task.exception()  # seen here, for the case that its caller left
        if not ended.done():
            ended.set_result(None)

    async def drain(self, patience_s: float) -> None:
        """Let all calls end; after `patience_s` call off the rest: what was sent is then concluded as in doubt."""
        if self._live:
            await asyncio.wait(tuple(self._live), timeout=patience_s)
        while self._live:
            for call in tuple(self._live.values()):
                call.abandon(even_if_sent=True)
            await asyncio.wait(tuple(self._live), timeout=1.0)


class Queues:
    """One queue per name: writes on one authorization run one after another, in the order they came."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}

    def enter(self, name: str) -> bool:
        """Take the turn of `name` if nobody has it."""
        if name in self._lines:
            return False
        self._lines[name] = deque()
        return True

    async def wait(self, name: str, wait_s: float) -> None:
        """Wait behind those who have the turn of `name`, or wait for it already.

        Raises:
            NoTurn: it did not come within `wait_s`.
        """
        line = self._lines[name]
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(turn)
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.leave(name)  # it came in the same moment
            elif turn in line:  # else who left has passed over it already
                line.remove(turn)
            if isinstance(error, TimeoutError):
                raise NoTurn from None
            raise

    def leave(self, name: str) -> None:
        """Give the turn to who waits the longest."""
        line = self._lines[name]
        while line:
            turn = line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        del self._lines[name]
