"""The worker pool of a batch: N workers for each account on one shared iterator; what a row does is passed in.

Never a task per row and never a list of rows: a worker takes the next row when it has ended the one before. Rows of one
hold run one after another, in their order. A row that cannot run yet (its hold is under way, or all workers of its
account wait for the budget) is parked, at most `PARKED_MAX` of them, while others go on. Outcomes go through a bounded
channel: a consumer that is slow, or stops, stops the workers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
)

from attrs import define, field, frozen

from qfpay_preauth._batch_flow import Bell, Channel, Source
from qfpay_preauth._batch_rows import BatchOutcome, BatchRow, stops
from qfpay_preauth.errors import ConfigurationError, Outcome

PARKED_MAX = 2_000
"""How many rows wait for their hold or account while others go on."""


@frozen
class Later:
    """A row's turn has not come: try again after `wait_s`; `otherwise` is its outcome if the batch stops before."""

    otherwise: BatchOutcome
    wait_s: float


@define(eq=False)
class Turn:
    """A row on its way: whose it is, and how it runs.

    `perform` gets the turn itself; `tried` says how often it did before. The rest is the pool's: the names (hold, key)
    that the turn has taken, and the turns that wait for them behind it.
    """

    row: BatchRow
    line: int
    account: Hashable
    perform: Callable[[Turn], Awaitable[BatchOutcome | Later]]
    tried: int = 0
    names: tuple[str, ...] = ()
    chain: list[Turn] = field(factory=list)


Read = Callable[[object, int], Turn | BatchOutcome]
"""(what the iterator gave, its number from 1) → a turn, or the row's outcome at once."""


@define(eq=False)
class _Account:
    """One account's turns: how many run, which names are taken by whose chain, and who waits for a worker."""

    running: int = 0
    taken: dict[str, tuple[list[Turn], int]] = field(factory=dict)
    ready: deque[Turn] = field(factory=deque)


class Batch:
    """One run over some rows.

    Args:
        rows: an iterable or async iterable.
        read: what a row means.
        concurrency: how many rows of one account may be under way.
        accounts: how many accounts there may be; where there are several, one more worker reads ahead.
        call_off: told when the batch stops: what has not been sent yet need not be.
        adopt: told of each task that is made.
    """

    def __init__(
        self,
        rows: Iterable[object] | AsyncIterable[object],
        read: Read,
        *,
        concurrency: int,
        accounts: int,
        call_off: Callable[[], None],
        adopt: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._source = Source(rows)
        self._read = read
        self._concurrency = concurrency
        self._several = accounts > 1
        self._call_off = call_off
        self._adopt = adopt
        self._accounts: dict[Hashable, _Account] = {}
        self._results = Channel(concurrency)
        self._bell = Bell()
        self._tasks: set[asyncio.Task[None]] = set()
        self._parked = 0
        self._again: deque[Turn] = deque()
        self._deferred: dict[Turn, tuple[asyncio.TimerHandle, Later]] = {}
        self._preparing: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._lines = 0
        self._stopped = False
        self._failure: BaseException | None = None

    async def outcomes(
        self, prepare: Callable[[], Coroutine[None, None, None]], stop: asyncio.Event | None = None
    ) -> AsyncGenerator[BatchOutcome, None]:
        """The outcomes as rows end; leaving early drains what is under way.

        Args:
            prepare: what comes before the first row.
            stop: once it is set, nothing more is sent.

        Raises:
            PreauthError: what stopped the batch, after the outcomes of all rows that were under way.
        """
        if stop is not None:
            self._watch = asyncio.create_task(self._stop_when(stop))
            self._adopt(self._watch)
        try:
            await self._prepared(prepare)
            self._hire(self._concurrency + self._several)
            while (outcome := await self._results.get()) is not None:
                yield outcome
        finally:
            await self._drain()
        if self._failure is not None:
            raise self._failure

    async def _prepared(self, prepare: Callable[[], Coroutine[None, None, None]]) -> None:
        self._preparing = asyncio.create_task(prepare())
        self._adopt(self._preparing)
        try:
            await self._preparing
        except asyncio.CancelledError:
            consumer = asyncio.current_task()
            if consumer is not None and consumer.cancelling():
                raise
            if not self._stopped:
                raise _closed("begun", Outcome.NOTHING_HAPPENED) from None

    def stop(self) -> None:
        """Send nothing more: rows that were not sent end now, those under way run to their end."""
        if self._stopped:
            return
        self._stopped = True
        if self._preparing is not None:
            self._preparing.cancel()
        for handle, later in self._deferred.values():
            handle.cancel()
            self._results.force(later.otherwise)
        self._deferred.clear()
        self._source.give_up()
        self._call_off()
        self._bell.ring_all()

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.stop()

    async def _drain(self) -> None:
        """Nobody takes outcomes any more: let what is under way end."""
        self.stop()
        self._results.close()
        if self._watch is not None:
            self._watch.cancel()
        try:
            while left := [task for task in (self._watch, *self._tasks) if task is not None and not task.done()]:
                await asyncio.wait(left)
        except asyncio.CancelledError:
            for task in self._tasks:
                task.cancel()
            raise

    # ------------------------------------------------------------------ the workers

    def _hire(self, count: int) -> None:
        for _ in range(count):
            task = asyncio.create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._gone)
            self._adopt(task)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if not self._stopped:
                self._fail(_closed("ended", Outcome.UNKNOWN))
        elif (error := task.exception()) is not None:
            self._fail(error)
        if not self._tasks:
            self._results.end()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.stop()

    async def _work(self) -> None:
        turn = await self._next()
        while turn is not None:
            ended = await turn.perform(turn)
            if isinstance(ended, Later) and not self._stopped:
                turn = self._defer(turn, ended) or await self._next()
                continue
            outcome = ended.otherwise if isinstance(ended, Later) else ended
            if outcome.error is not None and stops(outcome.error):
                self._fail(outcome.error)
            if not self._results.offer(outcome):
                await self._results.put(outcome)
            if self._stopped:
                return  # what waits behind it is not begun
            turn = self._follow(turn) or await self._next()

    # ------------------------------------------------------------------ whose turn it is

    async def _next(self) -> Turn | None:
        """The next turn of whoever has room; None: there is nothing more to do."""
        source = self._source
        while not self._stopped:
            if self._again and (turn := self._resumed()) is not None:
                return turn
            if source.ended and not self._deferred:
                break
            if source.ended or source.reading or self._parked >= PARKED_MAX:
                await self._bell.wait()
                continue
            given = source.take() if source.ahead is None else await self._awaited(source)
            if source.ended:
                self._bell.ring_all()  # there is nothing left to wait for
            elif (turn := await self._begun(given)) is not None:
                return turn
        return None

    async def _awaited(self, source: Source) -> object:
        """The next row of an async iterable; one worker waits for it, the others for that one."""
        try:
            return await source.take_ahead()
        finally:
            self._bell.ring()

    async def _begun(self, given: object) -> Turn | None:
        """The turn of a row if it can run now; None if it was parked, or is no row."""
        self._lines += 1
        read = self._read(given, self._lines)
        if not isinstance(read, BatchOutcome):
            return None if self._stopped else self._placed(read)
        await self._results.put(read)
        return None

    def _account(self, turn: Turn) -> _Account:
        account = self._accounts.get(turn.account)
        if account is None:
            account = self._accounts[turn.account] = _Account()
            if len(self._accounts) > 1:
                self._hire(self._concurrency)
        return account

    def _placed(self, turn: Turn) -> Turn | None:
        """The turn if it can run now; else it is parked."""
        account = self._account(turn)
        if (chain := _chain_of(account, turn)) is not None:
            _join(account, turn, chain)
        elif account.running < self._concurrency:
            _join(account, turn)
            account.running += 1
            return turn
        else:
            account.ready.append(turn)
        self._parked += 1
        return None

    def _follow(self, turn: Turn) -> Turn | None:
        """A turn has ended: the next of its chain, else of its account; None: the worker is free."""
        account = self._account(turn)
        _leave(account, turn)
        if not turn.chain:
            return self._vacated(account)
        following = turn.chain.pop(0)
        following.chain = turn.chain
        self._unpark()
        return following

    def _vacated(self, account: _Account) -> Turn | None:
        """Who waits for a worker of this account; None: nobody."""
        while account.ready:
            turn = account.ready.popleft()
            chain = None if turn.names else _chain_of(account, turn)  # one that comes again has its names already
            if chain is None:
                _join(account, turn)
                self._unpark()
                return turn
            _join(account, turn, chain)
        account.running -= 1
        return None

    def _unpark(self) -> None:
        self._parked -= 1
        if self._parked == PARKED_MAX - 1:
            self._bell.ring_all()

    # ------------------------------------------------------------------ what is tried again

    def _defer(self, turn: Turn, later: Later) -> Turn | None:
        """Let others go on; the turn keeps its names, so that the rows of a hold stay in order."""
        turn.tried += 1
        self._parked += 1
        handle = asyncio.get_running_loop().call_later(later.wait_s, self._resume, turn)
        self._deferred[turn] = (handle, later)
        return self._vacated(self._account(turn))

    def _resume(self, turn: Turn) -> None:
        """Its time has come again."""
        self._again.append(turn)
        self._bell.ring_all()

    def _resumed(self) -> Turn | None:
        """A turn whose time has come again, if its account has room."""
        while self._again:
            turn = self._again.popleft()
            del self._deferred[turn]
            account = self._account(turn)
            if account.running < self._concurrency:
                account.running += 1
                self._unpark()
                return turn
            account.ready.appendleft(turn)
        return None


def _closed(what: str, outcome: Outcome) -> ConfigurationError:
    return ConfigurationError(
        f"The client was closed before the batch had {what}.",
        outcome=outcome,
        advice="Run the same rows again with an open client: the ledger knows what was done.",
    )


def _chain_of(account: _Account, turn: Turn) -> list[Turn] | None:
    """The chain that a turn has to wait in: behind a row on the same hold, or one with the same key."""
    found = account.taken.get(turn.row.syssn) or account.taken.get(_key(turn))
    return None if found is None else found[0]


def _join(account: _Account, turn: Turn, chain: list[Turn] | None = None) -> None:
    """Take the names for the turn: at the end of a chain, or at the head of its own."""
    if turn.names:
        return
    names = (turn.row.syssn, _key(turn))
    if chain is None:
        turn.names = names
        account.taken[names[0]] = account.taken[names[1]] = (turn.chain, 1)
        return
    # a name that another chain holds stays that chain's
    turn.names = tuple(name for name in names if account.taken.get(name, (chain, 0))[0] is chain)
    for name in turn.names:
        account.taken[name] = (chain, account.taken.get(name, (chain, 0))[1] + 1)
    chain.append(turn)


def _leave(account: _Account, turn: Turn) -> None:
    for name in turn.names:
        chain, count = account.taken[name]
        if count == 1:
            del account.taken[name]
        else:
            account.taken[name] = (chain, count - 1)


def _key(turn: Turn) -> str:
    return f"key {turn.row.idempotency_key}"  # no syssn has a blank in it
