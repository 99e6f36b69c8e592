"""Where callers wait: lanes, fairness, parking after a 429, and a ledger that cannot be asked for its windows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from qfpay_preauth import LedgerUnavailableError, NotSentError, RateLimitedError
from qfpay_preauth._limits import Budget
from qfpay_preauth._share import Share
from qfpay_preauth._turnstile import Turnstile
from qfpay_preauth._windows import USE_WITHIN_MS, Claim, Grant, Lane, exchanged_text, from_text
from tests.client.kit import turns


class Waiting:
    """A turnstile on a clock that only moves by the waits that were asked for; `shared`: with windows in a ledger."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, per_second: int, per_minute: int, *, shared: bool = False
    ) -> None:
        self.now_s = 1000.0
        self.budget = Budget(per_second, per_minute)
        self.line: str | None = None
        self.draws = 0
        self.broken = False
        terms = Claim("gateway#M1", per_second, per_minute, 0, lambda: self.now_s)
        self.turnstile = Turnstile(self.budget, lambda: self.now_s, Share(self._draw, terms) if shared else None)
        self._yield = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _draw(self, claim: Claim) -> Grant:
        await self._yield(0)
        if self.broken:
            raise LedgerUnavailableError("the disk is full")
        self.draws += 1
        line, grant = exchanged_text(self.line, claim, claim.now())
        self.line = self.line if line is None else line
        return grant

    async def _sleep(self, delay: float, result: Any = None) -> None:
        self.now_s += delay
        await self._yield(0)

    async def serve(self, *lanes: Lane) -> list[Lane]:
        """Callers of these lanes come at once behind a first one; the lanes in the order they were served."""
        served: list[Lane] = []

        async def caller(lane: Lane) -> None:
            permit = await self.turnstile.permit(self.now_s + 3600, lane)
            served.append(lane)
            permit.spend()
            permit.give_back()

        await asyncio.gather(*(caller(lane) for lane in lanes))
        return served


@pytest.mark.parametrize("shared", [False, True])
async def test_lanes_in_their_order(monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    """Interactive callers go before batch rows, and these before reconciliation, whoever came first."""
    waiting = Waiting(monkeypatch, 10, 60, shared=shared)
    came = [Lane.RECONCILIATION, Lane.BATCH, Lane.BATCH, Lane.INTERACTIVE, Lane.INTERACTIVE]
    assert await waiting.serve(*came) == sorted(came)
    await waiting.turnstile.close()


async def test_no_lane_starves(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many go before, every eighth permit goes to who waits longest."""
    waiting = Waiting(monkeypatch, 100, 1_000)
    served = await waiting.serve(Lane.RECONCILIATION, Lane.BATCH, *[Lane.INTERACTIVE] * 40)
    assert served.index(Lane.RECONCILIATION) == 7
    assert served.index(Lane.BATCH) == 15


async def test_a_429_parks_everybody_and_one_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a 429 nobody is let in before its time; then one alone, and the others when it came through."""
    waiting = Waiting(monkeypatch, 50, 100)
    first = await waiting.turnstile.permit(waiting.now_s + 10)
    first.spend()
    first.told(True, 20.0)
    first.give_back()
    assert waiting.turnstile.try_permit() is None
    with pytest.raises(RateLimitedError) as caught:
        await waiting.turnstile.permit(waiting.now_s + 10)
    assert caught.value.retry_after_s == pytest.approx(20.0)
    waiting.now_s += 20.0
    probe = waiting.turnstile.try_permit()
    assert probe is not None
    assert waiting.turnstile.try_permit() is None
    probe.spend()
    assert waiting.turnstile.try_permit() is None
    probe.told(False, None)
    probe.give_back()
    assert all(waiting.turnstile.try_permit() is not None for _ in range(10))


async def test_a_429_without_a_time_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first park is short, the next ones double; those under way together count once; a success forgets them."""
    waiting = Waiting(monkeypatch, 50, 100)
    together = [await waiting.turnstile.permit(waiting.now_s + 10) for _ in range(5)]
    for each in together:
        each.told(True, None)
        each.give_back()
    parks = []
    for _ in range(9):
        began = waiting.now_s
        probe = await waiting.turnstile.permit(waiting.now_s + 100)
        parks.append(waiting.now_s - began)
        probe.told(True, None)
        probe.give_back()
    assert parks == pytest.approx([0.25, 0.5, 1, 2, 4, 8, 16, 30, 30], abs=0.01)
    probe = await waiting.turnstile.permit(waiting.now_s + 100)
    probe.told(False, None)
    probe.give_back()
    assert waiting.turnstile.try_permit() is not None


async def test_an_unsent_probe_lets_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that should try was cancelled: another one tries, still alone."""
    waiting = Waiting(monkeypatch, 50, 100)
    waiting.budget.limited(int(waiting.now_s * 1000), 1.0)
    waiting.now_s += 1.0
    probe = waiting.turnstile.try_permit()
    assert probe is not None
    probe.give_back()
    second = waiting.turnstile.try_permit()
    assert second is not None
    assert waiting.turnstile.try_permit() is None


async def test_a_park_reaches_the_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one process was told, the next draw of another one hears."""
    waiting = Waiting(monkeypatch, 50, 100, shared=True)
    permit = await waiting.turnstile.permit(waiting.now_s + 10)
    permit.spend()
    permit.told(True, 20.0)
    permit.give_back()
    await turns(5)
    other = Claim("gateway#M1", 50, 100, 1, lambda: waiting.now_s)
    assert exchanged_text(waiting.line, other, waiting.now_s)[1].wait_s == pytest.approx(
        1_020 - waiting.now_s, abs=0.01
    )
    await waiting.turnstile.close()


async def test_a_batch_leaves_room_for_people_in_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that draws all it gets leaves a twentieth of the shared windows to others."""
    waiting = Waiting(monkeypatch, 100, 200, shared=True)
    permits = []
    for _ in range(95):
        permits.append(await waiting.turnstile.permit(waiting.now_s + 0.1, Lane.BATCH))
    with pytest.raises(RateLimitedError):
        await waiting.turnstile.permit(waiting.now_s + 0.1, Lane.BATCH)
    other = Claim("gateway#M1", 100, 200, 9, lambda: waiting.now_s)
    assert exchanged_text(waiting.line, other, waiting.now_s)[1].permits == 5
    for permit in permits:
        permit.give_back()
    await waiting.turnstile.close()
    everything = Claim("gateway#M1", 100, 200, 999, lambda: waiting.now_s)
    assert exchanged_text(waiting.line, everything, waiting.now_s)[1].permits == 100


async def test_who_cannot_ask_the_ledger_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every waiting caller gets an error of its own, nothing is let in, and later callers are served again."""
    waiting = Waiting(monkeypatch, 50, 100, shared=True)
    waiting.broken = True
    calls = [waiting.turnstile.permit(waiting.now_s + 10) for _ in range(3)]
    errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in errors} == {LedgerUnavailableError}
    assert len({id(each) for each in errors}) == 3
    waiting.broken = False
    permit = await waiting.turnstile.permit(waiting.now_s + 10)
    permit.give_back()
    await waiting.turnstile.close()


async def test_permits_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw serves several requests; with limits far above QFPay's few at first, soon very many."""
    waiting = Waiting(monkeypatch, 100_000, 1_000_000, shared=True)
    for _ in range(8_000):
        permit = waiting.turnstile.try_permit() or await waiting.turnstile.permit(waiting.now_s + 10)
        permit.spend()
        permit.give_back()
    assert waiting.draws <= 10
    await waiting.turnstile.close()
    assert from_text(waiting.line).blocks == ()  # what was drawn ahead is given back


async def test_who_has_just_begun_keeps_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """However wide the budget, a process draws no more than a few permits at first: it may be killed with them."""
    waiting = Waiting(monkeypatch, 100_000, 1_000_000, shared=True)
    for _ in range(3):
        (await waiting.turnstile.permit(waiting.now_s + 10)).spend()
    assert sum(left for _, left, _ in from_text(waiting.line).blocks) <= 8
    await waiting.turnstile.close()


async def test_a_permit_lapses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared permit that was drawn too long ago may not be sent on any more; one of this process alone may."""
    shared = Waiting(monkeypatch, 50, 100, shared=True)
    permit = await shared.turnstile.permit(shared.now_s + 10)
    assert not permit.lapsed
    shared.now_s += USE_WITHIN_MS / 1000
    assert permit.lapsed
    permit.give_back()
    await shared.turnstile.close()
    alone = Waiting(monkeypatch, 50, 100)
    permit = await alone.turnstile.permit(alone.now_s + 10)
    alone.now_s += 1_000
    assert not permit.lapsed
    permit.give_back()


async def test_cancelled_callers_keep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers cancelled at any moment leave the budget and the windows as they were, and no task behind."""
    before = asyncio.all_tasks()
    waiting = Waiting(monkeypatch, 5, 100, shared=True)
    for steps in range(12):
        calls = [asyncio.create_task(waiting.turnstile.permit(waiting.now_s + 60)) for _ in range(3)]
        for _ in range(steps):
            await waiting._yield(0)
        for call in calls:
            call.cancel()
        for done in await asyncio.gather(*calls, return_exceptions=True):
            if not isinstance(done, BaseException):
                done.give_back()
    await waiting.turnstile.close()
    await waiting._yield(0)
    assert asyncio.all_tasks() == before
    waiting.now_s += USE_WITHIN_MS / 1000 + 1.1  # a draw that was cancelled half way may count until then
    permits = [waiting.budget.take(int(waiting.now_s * 1000)) for _ in range(6)]
    assert permits[:5] == [0.0] * 5
    assert permits[5] > 0


async def test_a_person_is_not_kept_waiting_by_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """While batch rows wait for room that is kept from them, an interactive caller takes it at once."""
    waiting = Waiting(monkeypatch, 100, 200, shared=True)
    monkeypatch.setattr(asyncio, "sleep", waiting._yield)  # the clock stands still
    (await waiting.turnstile.permit(waiting.now_s + 1)).give_back()
    for _ in range(95):
        (await waiting.turnstile.permit(waiting.now_s + 0.1, Lane.BATCH)).spend()
    row = asyncio.create_task(waiting.turnstile.permit(waiting.now_s + 100, Lane.BATCH))
    await turns(5)
    began = waiting.now_s
    async with asyncio.timeout(5):
        (await waiting.turnstile.permit(began + 10)).spend()
    assert waiting.now_s == began
    assert not row.done()
    row.cancel()
    await asyncio.gather(row, return_exceptions=True)
    await waiting.turnstile.close()


async def test_the_minute_too_keeps_room_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """The twentieth is left in both windows."""
    waiting = Waiting(monkeypatch, 30, 100, shared=True)
    for _ in range(95):
        (await waiting.turnstile.permit(waiting.now_s + 30, Lane.BATCH)).spend()
    with pytest.raises(RateLimitedError):
        await waiting.turnstile.permit(waiting.now_s + 30, Lane.BATCH)
    (await waiting.turnstile.permit(waiting.now_s + 30)).spend()
    await waiting.turnstile.close()


async def test_who_comes_too_late_for_the_room_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """While others wait for room, a caller whose deadline is before it comes does not wait in vain."""
    loop = asyncio.get_running_loop()
    turnstile = Turnstile(Budget(1, 2), loop.time)
    (await turnstile.permit(loop.time() + 1)).spend()
    ahead = asyncio.create_task(turnstile.permit(loop.time() + 30))
    await turns(3)
    began = loop.time()
    with pytest.raises(RateLimitedError) as caught:
        await turnstile.permit(loop.time() + 0.5)
    assert loop.time() - began < 0.2
    assert caught.value.retry_after_s == pytest.approx(1.0, abs=0.2)
    ahead.cancel()
    await asyncio.gather(ahead, return_exceptions=True)
    await turns(3)
    assert asyncio.all_tasks() == {asyncio.current_task()}  # nobody naps for nobody


async def test_what_was_sent_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a second after a sending the others know of it; what lay unused for a second is theirs again."""
    waiting = Waiting(monkeypatch, 100, 200, shared=True)
    (await waiting.turnstile.permit(waiting.now_s + 10)).spend()
    drawn = from_text(waiting.line).blocks[0][1]
    while not from_text(waiting.line).spent:
        await turns(1)
    assert 1000.25 <= waiting.now_s <= 1000.5
    assert from_text(waiting.line).spent == ((1_000_000, 1),)
    assert [left for _, left, _ in from_text(waiting.line).blocks] == [drawn - 1] == [4]
    while from_text(waiting.line).blocks:
        await turns(1)
    ended_s = waiting.now_s
    assert 1001.0 <= ended_s <= 1001.25
    await turns(10)
    assert waiting.now_s == ended_s  # and nobody looks any more
    await waiting.turnstile.close()


async def test_what_is_in_use_is_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """One who sends again and again draws once for as many sendings as a block holds."""
    waiting = Waiting(monkeypatch, 100, 200, shared=True)
    for _ in range(5):
        (await waiting.turnstile.permit(waiting.now_s + 10)).spend()
        await turns(1)
    assert from_text(waiting.line).drawn == 1
    await waiting.turnstile.close()


async def test_who_does_not_want_to_wait_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """`soon` gives a permit where there is room, asking the ledger if it must, and nothing where it takes a wait."""
    waiting = Waiting(monkeypatch, 2, 4, shared=True)
    got = [await waiting.turnstile.soon(waiting.now_s + 10) for _ in range(3)]
    assert [permit is not None for permit in got] == [True, True, False]
    assert waiting.now_s == 1000.0
    for permit in got:
        if permit is not None:
            permit.give_back()
    assert await waiting.turnstile.soon(waiting.now_s + 10) is not None
    await waiting.turnstile.close()


async def test_an_old_permit_is_given_back_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn and lay too long is not handed out: it could lapse on the way."""
    waiting = Waiting(monkeypatch, 100, 200, shared=True)
    monkeypatch.setattr(asyncio, "sleep", waiting._yield)
    permit = await waiting.turnstile.permit(waiting.now_s + 10)
    waiting.now_s += 6
    assert waiting.turnstile.try_permit() is None
    fresh = await waiting.turnstile.permit(waiting.now_s + 10)
    waiting.now_s += 6
    assert (permit.lapsed, fresh.lapsed) == (True, False)
    await waiting.turnstile.close()


async def test_a_failed_telling_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger was not there for a while: the sending is told with the next draw, and counted until then."""
    waiting = Waiting(monkeypatch, 100, 200, shared=True)
    permit = await waiting.turnstile.permit(waiting.now_s + 10)
    waiting.broken = True
    permit.spend()
    await turns(10)
    assert from_text(waiting.line).spent == ()
    waiting.broken = False
    (await waiting.turnstile.permit(waiting.now_s + 10)).spend()
    await waiting.turnstile.close()
    assert sum(count for _, count in from_text(waiting.line).spent) == 2


async def test_a_closed_turnstile_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits when it closes, and who comes after, is told that nothing was sent; no task is left."""
    loop = asyncio.get_running_loop()
    turnstile = Turnstile(Budget(1, 2), loop.time)
    (await turnstile.permit(loop.time() + 1)).spend()
    waiting = asyncio.create_task(turnstile.permit(loop.time() + 30))
    await turns(3)
    await turnstile.close()
    with pytest.raises(NotSentError):
        await waiting
    with pytest.raises(NotSentError):
        await turnstile.permit(loop.time() + 30)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_comes_back_after_the_close_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that the closing did not wait for gives its permit back: no task is left to tell of it."""
    waiting = Waiting(monkeypatch, 100, 200, shared=True)
    permit = await waiting.turnstile.permit(waiting.now_s + 10)
    await waiting.turnstile.close()
    permit.give_back()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_park_that_is_told_late_ends_no_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger was not there when the gateway said 429: told a minute later, nobody waits from then on."""
    waiting = Waiting(monkeypatch, 100, 200, shared=True)
    permit = await waiting.turnstile.permit(waiting.now_s + 10)
    permit.spend()
    waiting.broken = True
    permit.told(True, 30.0)
    permit.give_back()
    await turns(10)
    waiting.broken = False
    waiting.now_s += 60.0
    (await waiting.turnstile.permit(waiting.now_s + 1)).give_back()
    assert from_text(waiting.line).parked_until <= 1_031_000
    await waiting.turnstile.close()
