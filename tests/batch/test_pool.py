"""The worker pool by itself: bounded, in order per hold, fair to accounts, and gone when it has ended."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from qfpay_preauth import BatchOutcome, BatchRow, Capture, CredentialsRejectedError, RowOutcome
from qfpay_preauth import _batch as pool
from qfpay_preauth._batch import Batch, Later, Turn
from qfpay_preauth._batch_rows import ended, failed, read_row
from qfpay_preauth.errors import NotSentError, PreauthError
from tests.client.kit import turns

Perform = Callable[[Turn], Awaitable[BatchOutcome | Later]]


def _row(key: str, hold: str = "", account: str | None = None) -> BatchRow:
    return BatchRow(key, hold or f"S-{key}", 500, account=account)


def _rows(count: int) -> list[BatchRow]:
    return [_row(str(number)) for number in range(count)]


def _yes(turn: Turn) -> BatchOutcome:
    return ended(turn.row, turn.line, Capture("C", turn.row.syssn, 500, "HKD", turn.row.idempotency_key))


def _no(turn: Turn, error: PreauthError) -> BatchOutcome:
    return failed(turn.row, turn.line, error)


class Shop:
    """What runs rows here: it notes who is under way, and lets each end when told (or at once)."""

    def __init__(self, perform: Perform | None = None, *, hold_back: bool = False) -> None:
        self.began: list[str] = []
        self.now: Counter[str | None] = Counter()
        self.most: Counter[str | None] = Counter()
        self.called_off = 0
        self.gates: dict[str, asyncio.Event] = {}
        self._hold_back = hold_back
        self._perform = perform

    async def perform(self, turn: Turn) -> BatchOutcome | Later:
        key, account = turn.row.idempotency_key, turn.row.account
        self.began.append(key)
        self.now[account] += 1
        self.most[account] = max(self.most[account], self.now[account])
        try:
            if self._hold_back:
                await self.gates.setdefault(key, asyncio.Event()).wait()
            else:
                await asyncio.sleep(0)
            return _yes(turn) if self._perform is None else await self._perform(turn)
        finally:
            self.now[account] -= 1

    def read(self, given: object, number: int) -> Turn | BatchOutcome:
        row = read_row(given, number)
        if isinstance(row, BatchOutcome):
            return row
        return Turn(row, number, row.account, self.perform)

    def call_off(self) -> None:
        self.called_off += 1

    def batch(self, rows: Any, concurrency: int = 4, accounts: int = 1) -> Batch:
        how = {"concurrency": concurrency, "accounts": accounts}
        return Batch(rows, self.read, **how, call_off=self.call_off, adopt=lambda task: None)

    def let_go(self) -> None:
        """Let everything that is held back end."""
        self._hold_back = False
        for gate in self.gates.values():
            gate.set()


async def _nothing() -> None:
    pass


async def _ran(batch: Batch, **how: Any) -> list[str]:
    return [str(each.idempotency_key) async for each in batch.outcomes(_nothing, **how)]


async def _broken(batch: Batch) -> tuple[list[str], Exception]:
    """The keys that came before the error, and the error."""
    found: list[str] = []
    try:
        async for outcome in batch.outcomes(_nothing):
            found.append(str(outcome.idempotency_key))
    except Exception as error:
        return found, error
    raise AssertionError("no error")


async def _ahead(rows: list[BatchRow]) -> AsyncIterator[BatchRow]:
    for row in rows:
        await asyncio.sleep(0)
        yield row


# ------------------------------------------------------------------------------------------------ bounds


@pytest.mark.parametrize("source", [list, iter, _ahead])
async def test_every_row_runs_once(source: Callable[[list[BatchRow]], Any]) -> None:
    """Of a list, an iterator or an async iterator; no more under way than allowed, and no task left."""
    shop = Shop()
    done = await _ran(shop.batch(source(_rows(300))))
    assert sorted(done, key=int) == [str(number) for number in range(300)]
    assert shop.most[None] == (1 if source is _ahead else 4)  # that one has a row at each turn of the loop
    assert len(asyncio.all_tasks()) == 1


async def test_nothing_to_do() -> None:
    """No rows are no outcomes."""
    assert await _ran(Shop().batch([])) == []


async def test_rows_are_taken_one_by_one() -> None:
    """An endless iterable is only read as far as workers are free, and a slow consumer stops them."""
    shop, taken = Shop(), Counter[str]()

    def endless() -> Iterator[BatchRow]:
        while True:
            taken["rows"] += 1
            yield _row(str(taken["rows"]))

    outcomes = shop.batch(endless()).outcomes(_nothing)
    for number in range(1, 50):
        await anext(outcomes)
        await turns(50)
        # what was handed out, what waits in the channel, and what the workers hold in hand
        assert taken["rows"] <= number + 4 + 4
    await outcomes.aclose()


async def test_memory_does_not_grow_with_rows() -> None:
    """After many rows the pool holds as much as after few."""
    shop = Shop()
    outcomes = shop.batch(iter(_rows(4_000))).outcomes(_nothing)

    async def alive(count: int) -> int:
        for _ in range(count):
            await anext(outcomes)
        gc.collect()
        return sum(isinstance(each, Turn) for each in gc.get_objects())

    few, many = await alive(100), await alive(3_500)
    assert max(few, many) <= 12
    await outcomes.aclose()


async def test_invalid_rows_wait_for_the_consumer_too() -> None:
    """A million bad rows are not a list of a million outcomes."""
    shop, taken = Shop(), Counter[str]()

    def bad() -> Iterator[Any]:
        for _ in range(10_000):
            taken["rows"] += 1
            yield "no row"

    outcomes = shop.batch(bad()).outcomes(_nothing)
    await anext(outcomes)
    await turns(100)
    assert taken["rows"] <= 12
    await outcomes.aclose()


# ------------------------------------------------------------------------------------------------ order


async def test_rows_of_a_hold_run_in_their_order() -> None:
    """One after another, while rows of other holds go on beside them."""
    shop = Shop(hold_back=True)
    rows = [_row("a1", "A"), _row("a2", "A"), _row("a3", "A"), _row("b1", "B"), _row("c1", "C")]
    running = asyncio.create_task(_ran(shop.batch(rows)))
    await turns(20)
    assert shop.began == ["a1", "b1", "c1"]
    shop.gates["a1"].set()
    await turns(20)
    assert shop.began == ["a1", "b1", "c1", "a2"]
    shop.let_go()
    assert sorted(await running) == ["a1", "a2", "a3", "b1", "c1"]
    assert [key for key in shop.began if key[0] == "a"] == ["a1", "a2", "a3"]


async def test_rows_of_one_key_run_in_their_order() -> None:
    """The first of two rows with one key goes first, also where they name different holds."""
    shop = Shop(hold_back=True)
    running = asyncio.create_task(_ran(shop.batch([_row("k", "A"), _row("k", "B"), _row("x", "B"), _row("k", "A")])))
    await turns(20)
    assert shop.began == ["k"]
    shop.let_go()
    assert sorted(await running) == ["k", "k", "k", "x"]


async def test_many_rows_of_few_holds_leave_nothing_behind() -> None:
    """Chains of every length end; parked rows are bounded."""
    shop = Shop()
    rows = [_row(str(number), f"H{number * number % 7}") for number in range(5_000)]
    batch = shop.batch(rows)
    done = await _ran(batch)
    assert len(done) == len(set(done)) == 5_000
    assert batch._parked == 0
    assert not batch._accounts[None].taken
    for hold in range(7):
        mine = [key for key in shop.began if int(key) ** 2 % 7 == hold]
        assert mine == sorted(mine, key=int)


# ------------------------------------------------------------------------------------------------ accounts


async def test_accounts_do_not_wait_for_each_other() -> None:
    """While all workers of one account wait (for its budget), rows of another behind them in the file go on."""
    shop = Shop(hold_back=True)
    rows = [_row(f"a{number}", account="A") for number in range(50)]
    rows += [_row("b1", account="B"), _row("b2", account="B")]
    running = asyncio.create_task(_ran(shop.batch(rows, accounts=2)))
    await turns(200)
    assert shop.began == ["a0", "a1", "a2", "a3", "b1", "b2"]
    shop.let_go()
    assert len(await running) == 52
    assert (shop.most["A"], shop.most["B"]) == (4, 2)


async def test_so_many_rows_are_parked_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long block of rows of one account is read ahead only so far."""
    monkeypatch.setattr(pool, "PARKED_MAX", 10)
    shop = Shop(hold_back=True)
    rows = [_row(f"a{number}", account="A") for number in range(50)] + [_row("b1", account="B")]
    batch = shop.batch(rows, accounts=2)
    running = asyncio.create_task(_ran(batch))
    await turns(200)
    assert batch._lines == 4 + 10
    shop.let_go()
    assert len(await running) == 51
    assert batch._parked == 0


# ------------------------------------------------------------------------------------------------ again


async def test_a_row_is_tried_again_without_holding_up_others() -> None:
    """It keeps its hold, so the rows behind it stay in order; its outcome is the last try's."""
    tries: Counter[str] = Counter()

    async def perform(turn: Turn) -> BatchOutcome | Later:
        key = turn.row.idempotency_key
        tries[key] += 1
        if key == "a1" and turn.tried < 2:
            return Later(_no(turn, NotSentError("not yet")), 0.01)
        return _yes(turn)

    shop = Shop(perform)
    done = await _ran(shop.batch([_row("a1", "A"), _row("a2", "A"), *_rows(20)], concurrency=2))
    assert len(done) == 22
    assert tries["a1"] == 3
    assert done.index("a1") < done.index("a2")
    assert done.index("a1") > 15


async def test_rows_to_be_tried_again_are_waited_for_at_the_end() -> None:
    """All workers free, the source at its end: the last row still gets its tries."""

    async def perform(turn: Turn) -> BatchOutcome | Later:
        return Later(_no(turn, NotSentError("not yet")), 0.002) if turn.tried < 3 else _yes(turn)

    shop = Shop(perform)
    assert sorted(await _ran(shop.batch(_rows(30)))) == sorted(str(number) for number in range(30))
    assert shop.most[None] <= 4


async def test_a_stop_ends_what_would_be_tried_again() -> None:
    """Its outcome is then the one it had; it is not tried any more."""

    async def perform(turn: Turn) -> BatchOutcome | Later:
        return Later(_no(turn, NotSentError("not yet")), 3600)

    stop = asyncio.Event()
    shop = Shop(perform)
    outcomes = shop.batch(_rows(3)).outcomes(_nothing, stop)
    running = asyncio.create_task(anext(outcomes))
    await turns(20)
    assert not running.done()
    stop.set()
    found = [await running] + [each async for each in outcomes]
    assert [each.outcome for each in found] == [RowOutcome.NOT_SENT] * 3
    assert sorted(shop.began) == ["0", "1", "2"]


# ------------------------------------------------------------------------------------------------ ends


async def test_a_stop_lets_what_is_under_way_end() -> None:
    """No further row begins; the calls are told that they may be called off; the outcomes still come."""
    stop, shop = asyncio.Event(), Shop(hold_back=True)
    rows = _rows(100)
    for number in range(3):
        rows.insert(2 * number + 1, _row(f"behind-{number}", f"S-{number}"))
    running = asyncio.create_task(_ran(shop.batch(rows), stop=stop))
    await turns(20)
    stop.set()
    await turns(20)
    assert shop.called_off == 1
    assert not running.done()
    shop.let_go()
    assert sorted(await running) == ["0", "1", "2", "3"]


async def test_a_stop_before_the_first_row() -> None:
    """What comes before the rows is broken off, and no row is read."""
    stop, looking = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        looking.set()
        await asyncio.Event().wait()

    async def run() -> list[BatchOutcome]:
        return [each async for each in Shop().batch(_rows(5)).outcomes(look, stop)]

    running = asyncio.create_task(run())
    await looking.wait()
    stop.set()
    assert await running == []


@pytest.mark.parametrize("how", ["stop", "cancel", "leave"])
async def test_a_source_that_has_nothing_yet_is_not_waited_for(how: str) -> None:
    """A stop, a cancelled consumer and one that leaves end the wait for the next row; what was under way still ends."""
    stop, shop, left = asyncio.Event(), Shop(), asyncio.Event()

    async def queue() -> AsyncIterator[BatchRow]:
        yield _row("0")
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    found: list[str] = []

    async def run() -> None:
        async with aclosing(shop.batch(queue()).outcomes(_nothing, stop)) as outcomes:
            async for outcome in outcomes:
                found.append(str(outcome.idempotency_key))
                if how == "leave":
                    return

    running = asyncio.create_task(run())
    await turns(20)
    stop.set() if how == "stop" else running.cancel() if how == "cancel" else None
    async with asyncio.timeout(5):
        await asyncio.wait((running,))
    assert (found, left.is_set(), running.cancelled()) == (["0"], True, how == "cancel")
    assert len(asyncio.all_tasks()) == 1


async def test_leaving_the_loop_drains() -> None:
    """Closing the generator waits for the rows under way, and begins no other."""
    shop = Shop(hold_back=True)
    outcomes = shop.batch(_rows(100)).outcomes(_nothing)
    first = asyncio.create_task(anext(outcomes))
    await turns(20)
    shop.gates["0"].set()
    await first
    await turns(20)
    closing = asyncio.create_task(outcomes.aclose())
    await turns(20)
    assert not closing.done()
    shop.let_go()
    await closing
    assert len(asyncio.all_tasks()) == 1
    assert len(shop.began) == 5


async def test_a_cancelled_consumer_drains() -> None:
    """A cancelled loop waits for the rows under way too, then is cancelled."""
    shop = Shop(hold_back=True)
    running = asyncio.create_task(_ran(shop.batch(_rows(100))))
    await turns(20)
    running.cancel()
    await turns(20)
    assert not running.done()
    shop.let_go()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sorted(shop.began) == ["0", "1", "2", "3"]
    assert len(asyncio.all_tasks()) == 1


async def test_a_consumer_cancelled_twice_leaves_at_once() -> None:
    """Who insists is not kept; the workers are cancelled."""
    shop = Shop(hold_back=True)
    running = asyncio.create_task(_ran(shop.batch(_rows(100))))
    await turns(20)
    running.cancel()
    await turns(5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await turns(5)
    assert len(asyncio.all_tasks()) == 1


async def test_rejected_credentials_stop_everything_at_once() -> None:
    """The outcomes of all that was under way come first, then the error."""

    async def perform(turn: Turn) -> BatchOutcome | Later:
        if turn.row.idempotency_key == "7":
            return _no(turn, CredentialsRejectedError("1108", code="1108"))
        return _yes(turn)

    shop = Shop(perform)
    found, error = await _broken(shop.batch(_rows(1_000)))
    assert isinstance(error, CredentialsRejectedError)
    assert "7" in found
    assert sorted(found) == sorted(shop.began)
    assert len(found) <= 8 + 4
    assert shop.called_off == 1


@pytest.mark.parametrize("ahead", [False, True])
async def test_a_source_that_raises_ends_the_batch(ahead: bool) -> None:
    """What was read runs to its end and is told; then its error comes."""

    def rows() -> Iterator[BatchRow]:
        yield from _rows(6)
        raise OSError("the disk is gone")

    async def rows_ahead() -> AsyncIterator[BatchRow]:
        for row in _rows(6):
            yield row
        raise OSError("the disk is gone")

    found, error = await _broken(Shop().batch(rows_ahead() if ahead else rows()))
    assert str(error) == "the disk is gone"
    assert sorted(found) == ["0", "1", "2", "3", "4", "5"]


async def test_a_slow_source_keeps_nobody_from_ending() -> None:
    """While one worker waits for the next row, others are free to end what is tried again."""
    more = asyncio.Event()

    async def rows() -> AsyncIterator[BatchRow]:
        yield _row("first")
        await more.wait()
        yield _row("second")

    async def perform(turn: Turn) -> BatchOutcome | Later:
        return _yes(turn) if turn.tried else Later(_no(turn, NotSentError("not yet")), 0.001)

    outcomes = Shop(perform).batch(rows()).outcomes(_nothing)
    assert (await anext(outcomes)).idempotency_key == "first"
    more.set()
    assert [each.idempotency_key async for each in outcomes] == ["second"]


async def test_a_defect_in_a_row_is_not_swallowed() -> None:
    """What nobody expected stops the batch and comes out."""

    async def perform(turn: Turn) -> BatchOutcome | Later:
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError, match="a defect"):
        await _ran(Shop(perform).batch(_rows(10)))
    assert len(asyncio.all_tasks()) == 1
