"""Conformance cases of `Ledger.reserve`: the same key again, and many calls at once."""

from __future__ import annotations

import asyncio
from typing import Any

from attrs import evolve

from qfpay_preauth._models import Judgement, Operation, Request, State, Why
from qfpay_preauth.errors import (
    AlreadyUnfrozenError,
    IdempotencyConflictError,
    OperationInProgressError,
    OverCaptureError,
    PreauthError,
)
from qfpay_preauth.ledger import Reserved

from ._ledger_kit import DOUBT_AT_S, SEND_BY_S, Cases, Scene, case, moment

CAPTURE, UNFREEZE, REFUND = Operation.CAPTURE, Operation.UNFREEZE, Operation.REFUND


class ReplayCases(Cases):
    """The same key again."""

    @case
    async def test_ended_entries_are_replayed(self, s: Scene) -> None:
        """An executed, a finally refused and a doubtful entry are returned as they are; nothing is written."""
        await s.hold()
        ends = [
            await s.captured("k1", 100),
            await s.declined((await s.capture("k2", 200)).entry),
            await s.doubted((await s.capture("k3", 300)).entry),
        ]
        before = await s.everything()
        for end in ends:
            again = await s.capture(end.idempotency_key, end.amount, at_s=5)
            assert again == Reserved(end, fresh=False)
        assert await s.everything() == before

    @case
    async def test_replayed_unfreeze_may_leave_its_amount_out(self, s: Scene) -> None:
        """An unfreeze asked for without an amount equals itself, whatever the amount turned out to be."""
        await s.hold()
        executed = await s.executed((await s.unfreeze("u1")).entry)
        assert (await s.unfreeze("u1")).entry == executed
        assert (await s.unfreeze("u1", 1_000)).entry == executed
        await s.refused(IdempotencyConflictError, s.request("u1", UNFREEZE, 999))

    @case
    async def test_another_request_under_a_key_is_a_conflict(self, s: Scene) -> None:
        """Another amount, hold or operation under a known key is refused in every state of the entry."""
        await s.hold()
        await s.hold(syssn="HOLD-2")
        await s.captured("k0", 50, "CAP-0")
        others = (
            s.request("k1", CAPTURE, 101),
            s.request("k1", CAPTURE, 100, "HOLD-2"),
            s.request("k1", UNFREEZE, None),
            s.request("k1", UNFREEZE, 100),
            s.request("k1", REFUND, 100, "CAP-0"),
            s.request("k1", CAPTURE, 100, "NOBODY"),
        )
        entry = (await s.capture("k1", 100)).entry
        await _all_refused(s, others)
        await s.not_sent(entry)
        await _all_refused(s, others)
        again = (await s.capture("k1", 100)).entry
        await s.doubted(again)
        await _all_refused(s, others)
        await s.executed(again)
        await _all_refused(s, others)

    @case
    async def test_same_key_under_way_is_in_progress(self, s: Scene) -> None:
        """Until `doubt_at` a held entry is somebody's call; from then on it is in doubt, and returned."""
        await s.hold()
        entry = (await s.capture("k1", 100)).entry
        await s.refused(OperationInProgressError, s.request("k1", CAPTURE, 100, at_s=SEND_BY_S))
        await s.refused(OperationInProgressError, s.request("k1", CAPTURE, 100, at_s=DOUBT_AT_S - 0.000_001))
        assert await s.capture("k1", 100, at_s=DOUBT_AT_S) == Reserved(entry, fresh=False)

    @case
    async def test_rerunnable_ends_run_again_as_the_next_attempt(self, s: Scene) -> None:
        """`not_sent` and "not now" go back to held, dated anew, with nothing left of the old attempt."""
        await s.hold()
        first = (await s.capture("k1", 100)).entry
        assert (await s.not_sent(first)).why is Why.NOT_SENT
        second = await s.capture("k1", 100, at_s=10)
        assert second == Reserved(evolve(first, attempt=2, **_dates(10)), fresh=True)
        await s.declined(second.entry, rerunnable=True)
        third = await s.capture("k1", 100, at_s=20)
        assert third == Reserved(evolve(first, attempt=3, **_dates(20)), fresh=True)
        assert (await s.sums()).claimed == 100
        assert (await s.executed(third.entry)).state is State.EXECUTED

    @case
    async def test_next_attempt_goes_through_admission(self, s: Scene) -> None:
        """What was taken in the meantime is refused, and the entry stays as it ended."""
        await s.hold(150)
        ended = await s.not_sent((await s.capture("k1", 100)).entry)
        await s.captured("k2", 100)
        await s.refused(OverCaptureError, s.request("k1", CAPTURE, 100))
        await s.executed((await s.unfreeze("u1")).entry)
        await s.refused(AlreadyUnfrozenError, s.request("k1", CAPTURE, 100))
        assert await s.entry("k1") == ended

    @case
    async def test_next_attempt_of_an_unfreeze_takes_what_is_left_now(self, s: Scene) -> None:
        """Run again without an amount, an unfreeze releases the remainder of that moment."""
        await s.hold()
        await s.not_sent((await s.unfreeze("u1")).entry)
        await s.captured("k1", 300)
        again = (await s.unfreeze("u1")).entry
        assert (again.amount, again.attempt) == (700, 2)
        await s.executed(again)
        await s.check_fold(["u1", "k1"])

    @case
    async def test_final_refusal_never_runs_again(self, s: Scene) -> None:
        """A refusal that is not re-runnable is replayed however often and late it is asked for."""
        await s.hold()
        ended = await s.declined((await s.capture("k1", 100)).entry)
        for at_s in (1, 1_000, 1_000_000):
            assert await s.capture("k1", 100, at_s=at_s) == Reserved(ended, fresh=False)


class TogetherCases(Cases):
    """Many at once."""

    @case
    async def test_200_at_once_never_exceed_the_hold(self, s: Scene) -> None:
        """Of 200 concurrent captures of a tenth of the hold exactly 10 are admitted."""
        await s.hold(1_000)
        wishes = [s.request(f"k{n}", CAPTURE, 100, twins_allowed=True) for n in range(200)]
        outcomes = await _together(s, wishes)
        assert sum(isinstance(each, Reserved) and each.fresh for each in outcomes) == 10
        assert sum(type(each) is OverCaptureError for each in outcomes) == 190
        assert (await s.sums()).claimed == 1_000

    @case
    async def test_one_key_at_once_is_one_entry(self, s: Scene) -> None:
        """Of 50 concurrent calls with one key one is fresh, and the others are told that it is under way."""
        await s.hold()
        outcomes = await _together(s, [s.request("k1", CAPTURE, 100)] * 50)
        assert sum(isinstance(each, Reserved) and each.fresh for each in outcomes) == 1
        assert sum(type(each) is OperationInProgressError for each in outcomes) == 49
        assert await s.moves("k1") == [(None, State.HELD)]

    @case
    async def test_unfreezes_and_captures_at_once_exclude_each_other(self, s: Scene) -> None:
        """Of concurrent unfreezes and captures either one unfreeze or captures are admitted, never both."""
        await s.hold(10_000)
        wishes = [s.request(f"u{n}", UNFREEZE, None) for n in range(10)]
        wishes += [s.request(f"k{n}", CAPTURE, 100 + n) for n in range(10)]
        fresh = [each.entry for each in await _together(s, wishes[::-3] + wishes) if isinstance(each, Reserved)]
        kinds = {entry.operation for entry in fresh}
        assert len(kinds) == 1
        assert kinds == {CAPTURE} or len(fresh) == 1

    @case
    async def test_concurrent_verdicts_end_an_entry_once(self, s: Scene) -> None:
        """Yes and no at once: the first ends the entry, every other only leaves a discrepancy."""
        await s.hold()
        entry = (await s.capture("k1", 100)).entry
        said = [Judgement.EXECUTED, Judgement.DECLINED] * 10
        await asyncio.gather(*(s.end(entry, each, "CAP-1" if each is said[0] else None) for each in said))
        after = await s.entry("k1")
        assert len([move for move in await s.moves("k1") if move[1] in (State.EXECUTED, State.NOT_EXECUTED)]) == 1
        assert len(await s.discrepancies("k1")) == 10
        assert (await s.sums()).captured == (100 if after.state is State.EXECUTED else 0)
        await s.check_fold(["k1"])


def _dates(at_s: float) -> dict[str, Any]:
    return {"reserved_at": moment(at_s), "send_by": moment(at_s + SEND_BY_S), "doubt_at": moment(at_s + DOUBT_AT_S)}


async def _all_refused(s: Scene, requests: tuple[Request, ...]) -> None:
    for request in requests:
        await s.refused(IdempotencyConflictError, request)


async def _together(s: Scene, wishes: list[Request]) -> list[Reserved | BaseException]:
    outcomes = await asyncio.gather(*map(s.ledger.reserve, wishes), return_exceptions=True)
    unexpected = [each for each in outcomes if not isinstance(each, Reserved | PreauthError)]
    assert not unexpected
    return outcomes
