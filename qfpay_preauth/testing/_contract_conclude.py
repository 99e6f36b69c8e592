"""Conformance cases of `Ledger.conclude`: every judgement, compare-and-set, and whose a transaction id is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import MappingProxyType
from typing import Any

from attrs import evolve

from qfpay_preauth._models import ConfirmedBy, Entry, Judgement, Operation, State, Why
from qfpay_preauth.errors import OperationInProgressError

from ._ledger_kit import DOUBT_AT_S, HOLD, Cases, Scene, case, moment

EXECUTED, DECLINED = Judgement.EXECUTED, Judgement.DECLINED
NOT_SENT, IN_DOUBT = Judgement.NOT_SENT, Judgement.IN_DOUBT
NO = State.NOT_EXECUTED


class JudgementCases(Cases):
    """What each judgement does to an unresolved entry."""

    @case
    async def test_executed_keeps_the_answer(self, s: Scene) -> None:
        """A yes ends the entry with all that the answer said, moves the claim to captured, and owns its syssn."""
        await s.hold()
        held = (await s.capture("k1", 300)).entry
        said: dict[str, Any] = {
            "code": "0000",
            "message": "成功",
            "system_time": moment(1),
            "raw": {"txamt": "300", "n": 1, "x": None},
        }
        after = await s.end(held, EXECUTED, "CAP-1", at_s=2, **said)
        ended: dict[str, Any] = {"state": State.EXECUTED, "concluded_at": moment(2), "confirmed_by": ConfirmedBy.ANSWER}
        assert after == evolve(held, result_syssn="CAP-1", **said, **ended)
        assert await s.entry("k1") == after
        sums = await s.sums()
        assert (sums.captured, sums.claimed, sums.capturable) == (300, 0, 700)
        owner = await s.ledger.movement(s.account, "CAP-1")
        assert owner is not None
        assert (owner.kind, owner.authorization, owner.amount) == ("capture", HOLD, 300)
        assert (owner.idempotency_key, owner.executed) == ("k1", True)

    @case
    async def test_executed_unfreeze_closes(self, s: Scene) -> None:
        """A yes to an unfreeze moves its claim to unfrozen; nothing is capturable."""
        await s.hold()
        await s.executed((await s.unfreeze("u1")).entry, "UNF-1")
        sums = await s.sums()
        assert (sums.unfrozen, sums.claimed, sums.captured) == (1_000, 0, 0)
        assert (await s.balance()).capturable == 0

    @case
    async def test_executed_refund_is_summed_twice(self, s: Scene) -> None:
        """A yes to a refund counts on its capture and on its hold, and frees nothing of the hold."""
        await s.hold()
        await s.captured("k1", 300, "CAP-1")
        await s.executed((await s.refund("r1", "CAP-1", 120)).entry, "REF-1")
        capture = await s.ledger.movement(s.account, "CAP-1")
        assert capture is not None
        assert (capture.refunded, capture.refund_claimed) == (120, 0)
        sums = await s.sums()
        assert (sums.refunded, sums.captured, sums.capturable) == (120, 300, 700)

    @case
    async def test_refused_gives_the_claim_back(self, s: Scene) -> None:
        """A no or `not_sent` ends the entry with its reason, and what was claimed is capturable again."""
        await s.hold()
        declined = await s.end((await s.capture("k1", 300)).entry, DECLINED, code="1202", message="no", at_s=3)
        assert (declined.state, declined.why, declined.rerunnable) == (NO, Why.DECLINED, False)
        assert (declined.code, declined.message, declined.concluded_at) == ("1202", "no", moment(3))
        not_sent = await s.not_sent((await s.capture("k2", 300)).entry)
        assert (not_sent.state, not_sent.why, not_sent.rerunnable) == (NO, Why.NOT_SENT, True)
        assert (await s.sums()).capturable == 1_000

    @case
    async def test_in_doubt_keeps_the_claim(self, s: Scene) -> None:
        """A lost answer leaves the entry unresolved and its amount claimed, however long ago that was."""
        await s.hold()
        after = await s.end((await s.capture("k1", 300)).entry, IN_DOUBT, detail="timed out", code="1298")
        assert (after.state, after.detail, after.code) == (State.IN_DOUBT, "timed out", "1298")
        assert (after.concluded_at, after.confirmed_by) == (None, None)
        assert (await s.sums()).claimed == 300
        balance = await s.balance(at_s=10**9)
        assert (balance.in_doubt, balance.held, balance.capturable) == (300, 0, 700)

    @case
    async def test_every_operation_ends_every_way(self, s: Scene) -> None:
        """Capture, unfreeze and refund, from held and from in doubt, by each judgement: sums equal the history."""
        for number, (operation, doubted, judgement) in enumerate(_EVERY_WAY):
            hold, key = f"H{number}", f"k{number}"
            await s.hold(1_000, hold)
            taken = (await s.capture(f"c{number}", 400, syssn=hold)).entry
            await s.executed(taken, f"CAP-{number}")
            entry = await _reserved(s, operation, key, hold, f"CAP-{number}")
            if doubted:
                entry = await s.doubted(entry)
            after = await s.end(entry, judgement, f"RES-{number}" if judgement is EXECUTED else None)
            assert after.state is _STATES[judgement]
            await s.check_fold([key, f"c{number}"], hold)

    @case
    async def test_later_doubt_adds_what_it_knows(self, s: Scene) -> None:
        """A second doubtful verdict keeps what the first one knew, and ends nothing."""
        await s.hold()
        entry = (await s.capture("k1", 300)).entry
        await s.end(entry, IN_DOUBT, "CAP-1", code="1143", message="pending", raw={"respcd": "1143"})
        after = await s.end(entry, IN_DOUBT, detail="still nothing")
        assert (after.result_syssn, after.code, after.message) == ("CAP-1", "1143", "pending")
        assert (after.detail, after.raw) == ("still nothing", {"respcd": "1143"})
        assert await s.moves("k1") == [(None, State.HELD), (State.HELD, State.IN_DOUBT)]

    @case
    async def test_contradicted_books_flag_the_hold(self, s: Scene) -> None:
        """A refusal that our books did not expect flags the authorization, for good."""
        await s.hold()
        await s.end((await s.capture("k1", 300)).entry, DECLINED, code="1266", flags_authorization=True)
        await s.captured("k2", 100)
        assert (await s.sums()).flagged is True

    @case
    async def test_any_mapping_may_be_the_raw_answer(self, s: Scene) -> None:
        """The raw fields may be any mapping, not only a dict."""
        await s.hold()
        entry = (await s.capture("k1", 300)).entry
        await s.end(entry, EXECUTED, "CAP-1", raw=MappingProxyType({"respcd": "0000"}))
        assert dict((await s.entry("k1")).raw or {}) == {"respcd": "0000"}


class CompareAndSetCases(Cases):
    """Ended entries, other attempts, other people's verdicts."""

    @case
    async def test_contradicting_verdict_changes_nothing_and_is_recorded(self, s: Scene) -> None:
        """No after yes, yes after no, another syssn: the entry stays, and a discrepancy event is added."""
        await s.hold()
        ends: list[tuple[Entry, Judgement, str | None]] = [
            (await s.captured("k1", 100, "CAP-1"), DECLINED, None),
            (await s.captured("k2", 100, "CAP-2"), EXECUTED, "CAP-9"),
            (await s.declined((await s.capture("k3", 100)).entry), EXECUTED, "CAP-3"),
            (await s.not_sent((await s.capture("k4", 100)).entry), EXECUTED, "CAP-4"),
        ]
        before = await s.sums()
        for entry, judgement, result in ends:
            history = await s.events(entry.idempotency_key)
            assert await s.end(entry, judgement, result, at_s=7) == entry
            *kept, added = await s.events(entry.idempotency_key)
            assert kept == history
            assert (added.kind, added.at, added.authorization) == ("discrepancy", moment(7), HOLD)
            assert added.detail
        assert await s.sums() == before
        assert await s.ledger.movement(s.account, "CAP-9") is None

    @case
    async def test_agreeing_verdict_again_writes_nothing(self, s: Scene) -> None:
        """The same yes, the same no, or a doubt about an ended entry leave no trace."""
        await s.hold()
        yes = await s.captured("k1", 100, "CAP-1")
        no = await s.declined((await s.capture("k2", 100)).entry)
        before = await s.everything()
        for entry, judgement, result in (
            (yes, EXECUTED, "CAP-1"),
            (yes, EXECUTED, None),
            (yes, IN_DOUBT, None),
            (no, DECLINED, None),
            (no, NOT_SENT, None),
            (no, IN_DOUBT, None),
        ):
            assert await s.end(entry, judgement, result, at_s=7) == entry
        assert await s.everything() == before

    @case
    async def test_verdict_on_another_attempt_ends_nothing(self, s: Scene) -> None:
        """A late yes to attempt 1 leaves attempt 2 held, claimed, and with a discrepancy."""
        await s.hold()
        first = (await s.capture("k1", 100)).entry
        await s.not_sent(first)
        second = (await s.capture("k1", 100)).entry
        assert await s.end(first, EXECUTED, "CAP-1") == second
        assert len(await s.discrepancies("k1")) == 1
        assert (await s.sums()).claimed == 100
        assert (await s.executed(second)).state is State.EXECUTED

    @case
    async def test_stale_copy_of_an_entry_is_enough(self, s: Scene) -> None:
        """Key and attempt name the entry; what else the caller's copy says does not count."""
        await s.hold()
        held = (await s.capture("k1", 100)).entry
        await s.doubted(held)
        after = await s.executed(evolve(held, amount=999, state=State.EXECUTED), "CAP-1")
        assert (after.state, after.amount) == (State.EXECUTED, 100)
        assert (await s.sums()).captured == 100

    @case
    async def test_nobody_else_ends_an_entry_under_way(self, s: Scene) -> None:
        """Before `doubt_at` only the answer ends a held entry; enquiry, notification and operator must wait."""
        await s.hold()
        entry = (await s.capture("k1", 100)).entry
        for who in (ConfirmedBy.ENQUIRY, ConfirmedBy.NOTIFICATION, ConfirmedBy.OPERATOR):
            for judgement in (EXECUTED, DECLINED):
                await s.raises(OperationInProgressError, _verdict_of(s, entry, judgement, who))
        decided = await s.decide(entry, DECLINED, at_s=DOUBT_AT_S)
        assert decided.state is NO

    @case
    async def test_a_person_may_decide_a_doubt_at_once(self, s: Scene) -> None:
        """An entry that is in doubt, not only held, can be decided; the reason and who are kept."""
        await s.hold()
        yes = await s.doubted((await s.capture("k1", 100)).entry)
        no = await s.doubted((await s.capture("k2", 200)).entry)
        yes = await s.end(yes, EXECUTED, confirmed_by=ConfirmedBy.OPERATOR, why=Why.OPERATOR, reason="portal")
        no = await s.end(no, DECLINED, confirmed_by=ConfirmedBy.OPERATOR, why=Why.OPERATOR, reason="asked")
        assert (yes.state, yes.why, yes.reason, yes.result_syssn) == (State.EXECUTED, Why.OPERATOR, "portal", None)
        assert (no.state, no.why, no.confirmed_by, no.reason) == (NO, Why.OPERATOR, ConfirmedBy.OPERATOR, "asked")
        sums = await s.sums()
        assert (sums.captured, sums.claimed) == (100, 0)
        assert [event.detail for event in await s.events("k2")][-1] == "asked"

    @case
    async def test_late_answer_still_ends_a_doubt(self, s: Scene) -> None:
        """An answer that comes long after `doubt_at` is an answer all the same."""
        await s.hold()
        entry = (await s.capture("k1", 100)).entry
        after = await s.end(entry, EXECUTED, "CAP-1", at_s=10 * DOUBT_AT_S)
        assert (after.state, after.confirmed_by) == (State.EXECUTED, ConfirmedBy.ANSWER)


class OwnerCases(Cases):
    """To whom a transaction id belongs."""

    @case
    async def test_yes_with_somebody_elses_syssn_leaves_doubt(self, s: Scene) -> None:
        """A syssn of another entry, of the hold or of another hold ends nothing: in doubt, with a discrepancy."""
        await s.hold()
        await s.hold(syssn="HOLD-2")
        await s.captured("k1", 100, "CAP-1")
        await s.executed((await s.refund("r1", "CAP-1", 10)).entry, "REF-1")
        for number, taken in enumerate(("CAP-1", "REF-1", HOLD, "HOLD-2")):
            key = f"d{number}"
            owner = await s.ledger.movement(s.account, taken)
            after = await s.end((await s.capture(key, 50 + number)).entry, EXECUTED, taken)
            assert (after.state, after.result_syssn) == (State.IN_DOUBT, None)
            assert len(await s.discrepancies(key)) == 1
            assert await s.ledger.movement(s.account, taken) == owner
        assert (await s.sums()).claimed == 50 + 51 + 52 + 53

    @case
    async def test_pending_syssn_is_remembered_for_its_entry(self, s: Scene) -> None:
        """The id of a pending answer belongs to its entry: the yes may name it again, or no id at all."""
        await s.hold()
        for key, amount, named in (("k1", 100, "CAP-k1"), ("k2", 200, None)):
            await s.end((await s.capture(key, amount)).entry, IN_DOUBT, f"CAP-{key}", code="1143")
            owner = await s.ledger.movement(s.account, f"CAP-{key}")
            assert owner is not None
            assert (owner.idempotency_key, owner.executed) == (key, False)
            after = await s.end(await s.entry(key), EXECUTED, named)
            assert (after.state, after.result_syssn) == (State.EXECUTED, f"CAP-{key}")
            assert (await s.refund(f"r-{key}", f"CAP-{key}", amount)).fresh

    @case
    async def test_remembered_syssn_is_taken_for_everybody_else(self, s: Scene) -> None:
        """A yes or a pending answer that names another entry's remembered id is not believed."""
        await s.hold()
        await s.end((await s.capture("k1", 100)).entry, IN_DOUBT, "CAP-1", code="1143")
        other = (await s.capture("k2", 200)).entry
        for judgement in (IN_DOUBT, EXECUTED):
            after = await s.end(other, judgement, "CAP-1")
            assert (after.state, after.result_syssn) == (State.IN_DOUBT, None)
        owner = await s.ledger.movement(s.account, "CAP-1")
        assert owner is not None
        assert owner.idempotency_key == "k1"

    @case
    async def test_no_with_somebody_elses_syssn_takes_nothing(self, s: Scene) -> None:
        """A refusal that names an id of another entry or of a hold leaves that id with its owner."""
        await s.hold()
        await s.captured("k1", 100, "CAP-1")
        for key, taken in (("k2", "CAP-1"), ("k3", HOLD)):
            owner = await s.ledger.movement(s.account, taken)
            await s.end((await s.capture(key, 200)).entry, DECLINED, taken, code="1202")
            assert await s.ledger.movement(s.account, taken) == owner

    @case
    async def test_mismatch_is_recorded(self, s: Scene) -> None:
        """An answer that does not match its question leaves doubt and a discrepancy that says why."""
        await s.hold()
        after = await s.end((await s.capture("k1", 100)).entry, IN_DOUBT, detail="txamt differs", mismatch=True)
        assert after.state is State.IN_DOUBT
        assert await s.discrepancies("k1") == ["txamt differs"]


class ConcludeCases(JudgementCases, CompareAndSetCases, OwnerCases):
    """All of conclude."""


_STATES = {EXECUTED: State.EXECUTED, DECLINED: NO, NOT_SENT: NO, IN_DOUBT: State.IN_DOUBT}
_EVERY_WAY = [(each, doubted, judgement) for each in Operation for doubted in (False, True) for judgement in Judgement]


async def _reserved(s: Scene, operation: Operation, key: str, hold: str, capture: str) -> Entry:
    if operation is Operation.CAPTURE:
        return (await s.capture(key, 100, syssn=hold)).entry
    if operation is Operation.UNFREEZE:
        return (await s.unfreeze(key, syssn=hold)).entry
    return (await s.refund(key, capture, 100)).entry


def _verdict_of(s: Scene, entry: Entry, said: Judgement, who: ConfirmedBy) -> Callable[[], Awaitable[Entry]]:
    return lambda: s.end(entry, said, confirmed_by=who, at_s=DOUBT_AT_S - 1)
