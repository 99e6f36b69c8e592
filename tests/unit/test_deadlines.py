"""One timer for all exchanges ends those that take too long, and only those."""

import asyncio

import pytest

from qfpay_preauth._deadlines import Deadlines


async def _never(deadlines: Deadlines, seconds: float) -> None:
    with deadlines.within(seconds):
        await asyncio.get_running_loop().create_future()


def _deadlines() -> Deadlines:
    return Deadlines(asyncio.get_running_loop())


async def test_what_takes_too_long_ends_with_a_timeout() -> None:
    """A block that is not done by its deadline raises TimeoutError, and its task is not left cancelled."""
    with pytest.raises(TimeoutError):
        await _never(_deadlines(), 0.01)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_ends_in_time_is_left_alone() -> None:
    """A block that ended in time is not disturbed when its deadline passes in a later block of the same task."""
    deadlines = _deadlines()
    with deadlines.within(0.01):
        pass
    reached = asyncio.Event()
    with deadlines.within(10):
        asyncio.get_running_loop().call_later(0.03, reached.set)
        await reached.wait()
    assert reached.is_set()


async def test_each_ends_by_its_own_deadline() -> None:
    """A sooner deadline that began later ends its block first; the other block goes on, and ends by its own."""
    deadlines = _deadlines()
    late = asyncio.create_task(_never(deadlines, 0.3))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await _never(deadlines, 0.01)
    assert not late.done()
    with pytest.raises(TimeoutError):
        await late


async def test_many_that_are_due_together_all_end() -> None:
    """Blocks with one deadline end together."""
    deadlines = _deadlines()
    ends = await asyncio.gather(*(_never(deadlines, 0.01) for _ in range(50)), return_exceptions=True)
    assert {type(each) for each in ends} == {TimeoutError}


async def test_a_cancellation_stays_one() -> None:
    """Whoever cancels the task gets a CancelledError, not a time-out."""
    deadlines = _deadlines()
    task = asyncio.create_task(_never(deadlines, 10))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_beside_a_timeout_stays_one() -> None:
    """Where somebody cancels in the moment of the time-out, the cancellation is not swallowed."""
    deadlines = _deadlines()

    async def cancelled_too() -> None:
        with deadlines.within(0):
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(cancelled_too())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_error_of_a_block_comes_through() -> None:
    """What the block raises itself is not changed."""
    with pytest.raises(KeyError), _deadlines().within(10):
        raise KeyError


async def test_the_timer_is_forgotten_at_the_end() -> None:
    """After `close` no timer is left on the loop; closing twice does nothing, and it can be used again."""
    deadlines = _deadlines()
    with deadlines.within(1_000):
        pass
    deadlines.close()
    deadlines.close()
    assert deadlines._timer is None
    with pytest.raises(TimeoutError):
        await _never(deadlines, 0.01)
