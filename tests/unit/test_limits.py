"""The rate budget: never more sendings in any window than its limit, and callers in order."""

from __future__ import annotations

import asyncio
import gc
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfpay_preauth import ConfigurationError, Outcome, RateLimitedError, _limits
from qfpay_preauth._limits import Budget, Window, budget_for
from qfpay_preauth._turnstile import Permit, Turnstile

SECOND, MINUTE = 1000, 60_000


def most_in_any(window_ms: int, sent_ms: list[int]) -> int:
    """The most sendings in any window that begins with one, counted by hand; both ends belong to it."""
    return max((sum(start <= each <= start + window_ms for each in sent_ms) for start in sent_ms), default=0)


def test_the_budget_is_spent_at_once_and_comes_back_after_its_window() -> None:
    """Three a second: the fourth waits until the first has left the window, and is told how long."""
    budget = Budget(3, 100)
    for _ in range(3):
        assert budget.take(0) == 0.0
        budget.spend(0)
    wait_s = budget.take(400)
    assert 0.6 <= wait_s <= 0.602
    assert budget.take(400 + round(wait_s * 1000)) == 0.0


def test_the_minute_binds_too() -> None:
    """Five a minute: the sixth waits for the minute, however slowly the seconds pass."""
    budget = Budget(3, 5)
    for number in range(5):
        assert budget.take(number * SECOND * 2) == 0.0
        budget.spend(number * SECOND * 2)
    assert budget.take(20 * SECOND) == pytest.approx(40, abs=0.01)
    assert budget.take(MINUTE + 1) == 0.0


def test_a_permit_that_is_not_spent_counts_as_sent_now() -> None:
    """However long a request waits for its connection, its place is not given to another."""
    budget = Budget(2, 100)
    assert [budget.take(0), budget.take(0)] == [0.0, 0.0]
    assert budget.take(10 * MINUTE) > 0
    budget.spend(10 * MINUTE)
    assert budget.take(10 * MINUTE + SECOND) > 0
    budget.give_back()
    assert budget.take(10 * MINUTE + SECOND) == 0.0


def test_what_is_given_back_can_be_taken_again() -> None:
    """A request that was never sent costs nothing."""
    budget = Budget(1, 2)
    for _ in range(100):
        assert budget.take(0) == 0.0
        budget.give_back()
    assert budget.take(0) == 0.0


def test_a_permit_ends_once() -> None:
    """Spending and giving back in any order and number count once: the first."""
    budget = Budget(1, 10)
    assert budget.take(0) == 0.0
    now_s = 0.0
    turnstile = Turnstile(budget, lambda: now_s)
    permit = Permit(turnstile, None)
    permit.spend()
    permit.give_back()
    permit.spend()
    assert budget.take(500) > 0
    assert budget.take(SECOND + 1) == 0.0
    now_s = 1.001
    second = Permit(turnstile, None)
    second.give_back()
    second.give_back()
    second.spend()
    assert budget.take(SECOND + 1) == 0.0
    assert budget.take(SECOND + 1) > 0


_steps = st.lists(
    st.tuples(st.integers(0, 700) | st.integers(0, 30_000), st.sampled_from(["take", "take", "take", "spend", "back"])),
    max_size=120,
)


def _coarse(coarse: bool) -> AbstractContextManager[Any]:
    """Budgets as they are, or as those above a thousand requests are: with sendings taken together."""
    return patch.multiple(_limits, _FINE_MAX=0, _STEPS=10) if coarse else nullcontext()


@settings(max_examples=400)
@given(st.booleans(), st.integers(1, 4), st.integers(1, 6), _steps)
def test_no_window_ever_holds_more_than_its_limit(
    coarse: bool, per_second: int, more: int, steps: list[tuple[int, str]]
) -> None:
    """Whatever is taken, spent late and given back: counted at the moment of spending, no window is over its limit."""
    budget = Budget(per_second, min(per_second + more, per_second * 60))
    now_ms, held = 0, 0
    sent_ms: list[int] = []
    with _coarse(coarse):
        for pause_ms, step in steps:
            now_ms += pause_ms
            if step == "take" and budget.take(now_ms) == 0.0:
                held += 1
            elif step == "spend" and held:
                held -= 1
                budget.spend(now_ms)
                sent_ms.append(now_ms)
            elif step == "back" and held:
                held -= 1
                budget.give_back()
    assert most_in_any(SECOND, sent_ms) <= per_second
    assert most_in_any(MINUTE, sent_ms) <= per_second + more


@given(st.booleans(), st.integers(1, 5), st.integers(1, 8), st.lists(st.integers(0, 2500), max_size=60))
def test_who_waits_as_told_gets_a_permit(coarse: bool, per_second: int, more: int, pauses_ms: list[int]) -> None:
    """The wait that is named is enough where nobody else takes the room: no permit is lost for ever."""
    budget = Budget(per_second, per_second + more)
    now_ms = 0
    with _coarse(coarse):
        for pause_ms in pauses_ms:
            now_ms += pause_ms
            wait_s = budget.take(now_ms)
            if wait_s:
                now_ms += round(wait_s * 1000)
                assert budget.take(now_ms) == 0.0
            budget.spend(now_ms)


def test_sendings_taken_together_stay_in_the_window_the_longer() -> None:
    """Where some milliseconds are taken together, none of them leaves before its own time."""
    window = Window(2, SECOND)
    with _coarse(True):
        window.add(1)
        window.add(99)
        assert window.wait_ms(99 + SECOND, 0) > 0
        assert window.wait_ms(100 + SECOND + 1, 0) == 0


def test_who_comes_behind_others_waits_for_as_many_to_leave() -> None:
    """With one permit outstanding the window has room once two of the three in it have left."""
    window = Window(3, SECOND)
    for moment in (0, 10, 20):
        window.add(moment)
    assert window.wait_ms(30, outstanding=1) == 10 + SECOND + 1 - 30


def test_a_minute_of_a_great_budget_is_a_short_log() -> None:
    """Sixty thousand sendings within a minute are remembered as a thousand, none of which leaves too soon."""
    budget = Budget(100_000, 60_000 * 60)
    for number in range(60_000):
        budget.spend(number)
    minute, _ = budget._windows
    assert len(minute._sent) <= 1_001
    assert minute.wait_ms(60_000 + 30_000, 0) == 0
    assert sum(many for _, many in minute._sent) == minute._count == pytest.approx(30_000, abs=60)
    assert minute._count >= 30_000


@pytest.mark.parametrize(
    ("per_second", "per_minute"), [(95, 390), (100, 400), (1, 2), (1, 60), (10, 600), (10**5, 10**6)]
)
def test_usable_pairs_make_a_budget(per_second: int, per_minute: int) -> None:
    """More a minute than a second, and at most sixty times it."""
    assert Budget(per_second, per_minute).take(0) == 0.0


@pytest.mark.parametrize(("per_second", "per_minute"), [(95, 95), (95, 94), (1, 1), (10, 601), (1, 61), (100, 10**9)])
def test_a_pair_that_the_limiter_cannot_hold_is_refused(per_second: int, per_minute: int) -> None:
    """The error names both settings and the relation they must have."""
    with pytest.raises(ConfigurationError, match=r"requests_per_minute=.*requests_per_second=.*60 times"):
        Budget(per_second, per_minute)


def test_clients_of_one_account_share_a_budget() -> None:
    """One budget per gateway and account in this process, for as long as anybody uses it."""
    one = budget_for("https://g.example", "M1", 2, 5)
    assert budget_for("https://g.example", "M1", 2, 5) is one
    assert budget_for("https://g.example", "M2", 2, 5) is not one
    assert budget_for("https://h.example", "M1", 2, 5) is not one
    one.take(0)
    one.spend(0)
    assert one.take(0) == 0.0
    del one
    gc.collect()
    fresh = budget_for("https://g.example", "M1", 2, 5)
    assert [fresh.take(0), fresh.take(0)] == [0.0, 0.0]


class Waiting:
    """A turnstile on a clock that only moves by the waits that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, per_second: int, per_minute: int) -> None:
        self.now_s = 1000.0
        self.budget = Budget(per_second, per_minute)
        self.turnstile = Turnstile(self.budget, lambda: self.now_s)
        self._yield = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _sleep(self, delay: float, result: Any = None) -> None:
        self.now_s += delay
        await self._yield(0)


async def test_callers_get_their_permits_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """First come, first served, and never more than the limit in any second."""
    waiting = Waiting(monkeypatch, 2, 100)
    served: list[int] = []
    sent_ms: list[int] = []

    async def caller(number: int) -> None:
        permit = await waiting.turnstile.permit(waiting.now_s + 3600)
        served.append(number)
        permit.spend()
        sent_ms.append(int(waiting.now_s * 1000))

    await asyncio.gather(*(caller(number) for number in range(20)))
    assert served == list(range(20))
    assert most_in_any(SECOND, sent_ms) == 2


async def test_nobody_passes_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """A permit at once is given only where nobody waits for one."""
    waiting = Waiting(monkeypatch, 1, 60)
    first = waiting.turnstile.try_permit()
    assert first is not None
    assert waiting.turnstile.try_permit() is None
    first.spend()
    queued = asyncio.create_task(waiting.turnstile.permit(waiting.now_s + 60))
    await waiting._yield(0)
    waiting.now_s += 30
    assert waiting.turnstile.try_permit() is None
    (await queued).give_back()
    again = waiting.turnstile.try_permit()
    assert again is not None


async def test_no_room_before_the_deadline_ends_the_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how long to wait, nothing was sent, and the place in the queue is free again."""
    waiting = Waiting(monkeypatch, 1, 2)
    for _ in range(2):
        (await waiting.turnstile.permit(waiting.now_s + 10)).spend()
    with pytest.raises(RateLimitedError, match="no room before the deadline") as caught:
        await waiting.turnstile.permit(waiting.now_s + 10)
    assert caught.value.outcome is Outcome.NOTHING_HAPPENED
    assert caught.value.retry_after_s == pytest.approx(59, abs=0.1)
    waiting.now_s += 61
    assert waiting.turnstile.try_permit() is not None


async def test_a_deadline_ends_the_wait_in_the_queue_too() -> None:
    """Who stands behind another is told at its own deadline, and the other is not disturbed."""
    loop = asyncio.get_running_loop()
    turnstile = Turnstile(Budget(1, 2), loop.time)
    (await turnstile.permit(loop.time() + 1)).spend()
    ahead = asyncio.create_task(turnstile.permit(loop.time() + 30))
    await asyncio.sleep(0)
    with pytest.raises(RateLimitedError):
        await turnstile.permit(loop.time() + 0.005)
    assert not ahead.done()
    ahead.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ahead


async def test_a_cancelled_caller_keeps_no_permit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelling a caller that waits leaves the budget as it was, and the next one is served."""
    loop = asyncio.get_running_loop()
    turnstile = Turnstile(Budget(1, 2), loop.time)
    held = turnstile.try_permit()
    assert held is not None
    waiting = asyncio.create_task(turnstile.permit(loop.time() + 30))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    held.give_back()
    assert turnstile.try_permit() is not None
