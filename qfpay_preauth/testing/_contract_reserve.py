"""Conformance cases of `Ledger.register` and `Ledger.reserve`: what is admitted, replayed and refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from attrs import evolve

from qfpay_preauth._models import Authorization, Operation, State
from qfpay_preauth.errors import (
    AlreadyUnfrozenError,
    AuthorizationClosedError,
    AuthorizationExpiredError,
    IdempotencyConflictError,
    OperationInProgressError,
    OverCaptureError,
    OverRefundError,
    UnknownAuthorizationError,
    UnknownCaptureError,
)

from ._ledger_kit import DOUBT_AT_S, HOLD, SEND_BY_S, START, Cases, Scene, case, moment

CAPTURE, UNFREEZE, REFUND = Operation.CAPTURE, Operation.UNFREEZE, Operation.REFUND


class RegisterCases(Cases):
    """Making holds known."""

    @case
    async def test_register_keeps_every_value(self, s: Scene) -> None:
        """A registered hold reads back as it was given, and owns its own syssn."""
        window: dict[str, Any] = {"authorized_at": moment(-5), "capture_window": timedelta(days=7)}
        given = await s.hold(1_000, **window)
        assert given == Authorization(s.account, HOLD, 1_000, "HKD", f"ORDER-{HOLD}", START, **window)
        assert await s.sums() == given
        owner = await s.ledger.movement(s.account, HOLD)
        assert owner is not None
        assert (owner.kind, owner.authorization, owner.amount) == ("authorization", HOLD, 1_000)

    @case
    async def test_register_again_is_a_no_op(self, s: Scene) -> None:
        """The same hold again, later, returns the stored one with its sums and writes nothing."""
        await s.hold(authorized_at=moment(-5))
        await s.captured("k1", 300)
        before = await s.everything()
        again = await s.hold(registered_at=moment(500), authorized_at=moment(-5))
        unsaid = await s.hold(registered_at=moment(600))
        assert again == unsaid == await s.sums()
        assert (again.captured, again.registered_at) == (300, START)
        assert await s.everything() == before

    @case
    async def test_register_refuses_another_hold_under_the_same_syssn(self, s: Scene) -> None:
        """Another amount, currency, order number or window under a known syssn is a conflict."""
        hold = await s.hold(authorized_at=moment(-5), capture_window=timedelta(days=7))
        others = (
            evolve(hold, amount=999),
            evolve(hold, currency="USD"),
            evolve(hold, out_trade_no="ANOTHER"),
            evolve(hold, authorized_at=moment(-6)),
            evolve(hold, capture_window=timedelta(days=8)),
        )
        for other in others:
            await s.raises(IdempotencyConflictError, lambda other=other: s.ledger.register(other))  # type: ignore[misc]

    @case
    async def test_register_refuses_a_syssn_known_as_something_else(self, s: Scene) -> None:
        """A capture's syssn, executed or remembered, cannot be registered as a hold."""
        hold = await s.hold()
        await s.captured("k1", 100, "CAP-1")
        await s.doubted((await s.capture("k2", 200)).entry, result="CAP-2")
        for syssn in ("CAP-1", "CAP-2"):
            other = evolve(hold, syssn=syssn)
            await s.raises(IdempotencyConflictError, lambda other=other: s.ledger.register(other))  # type: ignore[misc]

    @case
    async def test_unknown_names_are_none(self, s: Scene) -> None:
        """Books, movement, entry and events of what nobody wrote are None or empty."""
        assert await s.ledger.books(s.account, "NOBODY") is None
        assert await s.ledger.movement(s.account, "NOBODY") is None
        assert await s.ledger.entry(s.account, "nothing") is None
        assert list(await s.ledger.events(s.account, "nothing")) == []


class AdmissionCases(Cases):
    """New requests."""

    @case
    async def test_fresh_capture_is_held_and_claimed(self, s: Scene) -> None:
        """A fresh reservation is a held entry, attempt 1, dated by its request; its amount is claimed."""
        await s.hold()
        reserved = await s.capture("k1", 300, out_trade_no="OWN-1")
        entry = reserved.entry
        assert (reserved.fresh, reserved.expired) == (True, False)
        assert (entry.state, entry.attempt, entry.operation) == (State.HELD, 1, CAPTURE)
        assert (entry.amount, entry.currency, entry.syssn, entry.authorization) == (300, "HKD", HOLD, HOLD)
        assert (entry.out_trade_no, entry.reserved_at) == ("OWN-1", START)
        assert (entry.send_by, entry.doubt_at) == (moment(SEND_BY_S), moment(DOUBT_AT_S))
        assert await s.entry("k1") == entry
        books = await s.ledger.books(s.account, HOLD)
        assert books is not None
        assert books.unresolved == (entry,)
        assert (books.authorization.claimed, books.authorization.capturable) == (300, 700)

    @case
    async def test_unfreeze_takes_exactly_the_remainder(self, s: Scene) -> None:
        """Without an amount an unfreeze is for what is left, under the hold's own order number."""
        await s.hold()
        await s.captured("k1", 300)
        entry = (await s.unfreeze("u1")).entry
        assert (entry.amount, entry.out_trade_no, entry.state) == (700, f"ORDER-{HOLD}", State.HELD)
        assert (await s.sums()).claimed == 700
        assert (await s.balance()).capturable == 0

    @case
    async def test_refund_claims_its_capture(self, s: Scene) -> None:
        """A refund is held against the capture's syssn and claims part of that capture, not of the hold."""
        await s.hold()
        await s.captured("k1", 300, "CAP-1")
        entry = (await s.refund("r1", "CAP-1", 120)).entry
        assert (entry.syssn, entry.authorization, entry.amount) == ("CAP-1", HOLD, 120)
        capture = await s.ledger.movement(s.account, "CAP-1")
        assert capture is not None
        assert (capture.refund_claimed, capture.refunded) == (120, 0)
        assert (await s.sums()).claimed == 0

    @case
    async def test_unknown_authorization_is_refused(self, s: Scene) -> None:
        """A capture or unfreeze of a hold that is not registered, or of a capture's syssn, is refused."""
        await s.hold()
        await s.captured("k1", 100, "CAP-1")
        for operation in (CAPTURE, UNFREEZE):
            for syssn in ("NOBODY", "CAP-1"):
                await s.refused(UnknownAuthorizationError, s.request("k2", operation, 100, syssn))

    @case
    async def test_unknown_capture_is_refused(self, s: Scene) -> None:
        """A refund wants an executed capture: not a stranger, a hold, an unfreeze, a refund or a remembered id."""
        await s.hold()
        await s.hold(syssn="HOLD-2")
        await s.captured("k1", 100, "CAP-1")
        await s.executed((await s.refund("r1", "CAP-1", 50)).entry, "REF-1")
        await s.doubted((await s.capture("k2", 200)).entry, result="CAP-2")
        await s.executed((await s.unfreeze("u1", syssn="HOLD-2")).entry, "UNF-1")
        for syssn in ("NOBODY", HOLD, "UNF-1", "REF-1", "CAP-2"):
            await s.refused(UnknownCaptureError, s.request("r2", REFUND, 10, syssn))

    @case
    async def test_over_capture_counts_every_claim(self, s: Scene) -> None:
        """Captured, held and in doubt together never exceed the hold; the error carries the numbers."""
        await s.hold(1_000)
        await s.captured("k1", 300)
        await s.capture("k2", 250)
        await s.doubted((await s.capture("k3", 150)).entry)
        error = await s.refused(OverCaptureError, s.request("k4", CAPTURE, 301))
        assert (error.requested, error.capturable) == (301, 300)
        assert (await s.capture("k4", 300)).fresh
        error = await s.refused(OverCaptureError, s.request("k5", CAPTURE, 1))
        assert error.capturable == 0

    @case
    async def test_claims_of_one_hold_leave_others_alone(self, s: Scene) -> None:
        """A hold that is used up says nothing about another."""
        await s.hold(100)
        await s.hold(100, "HOLD-2")
        await s.capture("k1", 100)
        assert (await s.capture("k2", 100, syssn="HOLD-2")).fresh

    @case
    async def test_equal_twin_is_refused_while_unresolved(self, s: Scene) -> None:
        """A second capture of the same amount waits until the first has ended, held or in doubt."""
        await s.hold()
        first = (await s.capture("k1", 100)).entry
        await s.refused(OperationInProgressError, s.request("k2", CAPTURE, 100))
        await s.doubted(first)
        await s.refused(OperationInProgressError, s.request("k2", CAPTURE, 100))
        await s.executed(first)
        assert (await s.capture("k2", 100)).fresh

    @case
    async def test_equal_twin_may_be_allowed(self, s: Scene) -> None:
        """With `twins_allowed` the amounts may be equal; the hold's limit stays."""
        await s.hold(250)
        assert (await s.capture("k1", 100)).fresh
        assert (await s.capture("k2", 100, twins_allowed=True)).fresh
        await s.refused(OverCaptureError, s.request("k3", CAPTURE, 100, twins_allowed=True))

    @case
    async def test_expired_window_warns_or_refuses(self, s: Scene) -> None:
        """Past its window a capture is marked expired, or refused where that is asked for; an unfreeze is neither."""
        await s.hold(capture_window=timedelta(minutes=5))
        assert not (await s.capture("k1", 100, at_s=299)).expired
        assert (await s.capture("k2", 101, at_s=300)).expired
        await s.refused(AuthorizationExpiredError, s.request("k3", CAPTURE, 102, at_s=300, strict_expiry=True))
        await s.hold(syssn="HOLD-2")
        day = timedelta(days=1)
        late = s.request("k4", CAPTURE, 100, "HOLD-2", at_s=86_400, strict_expiry=True, default_window=day)
        await s.refused(AuthorizationExpiredError, late)
        assert (await s.unfreeze("u1", syssn="HOLD-2", at_s=90_000, strict_expiry=True, default_window=day)).fresh


class UnfreezeCases(Cases):
    """One unfreeze, and what it closes."""

    @case
    async def test_unfreeze_of_a_stale_amount_is_refused(self, s: Scene) -> None:
        """An amount that is not exactly what is left, more or less, is refused; the exact one is taken."""
        await s.hold()
        await s.captured("k1", 300)
        for stale in (699, 701, 1_000):
            error = await s.refused(OverCaptureError, s.request("u1", UNFREEZE, stale))
            assert (error.requested, error.capturable) == (stale, 700)
        assert (await s.unfreeze("u1", 700)).entry.amount == 700

    @case
    async def test_unfreeze_waits_for_unresolved_captures(self, s: Scene) -> None:
        """While a capture is held or in doubt nobody knows what is left: refused until it ends."""
        await s.hold()
        capture = (await s.capture("k1", 300)).entry
        await s.refused(OperationInProgressError, s.request("u1", UNFREEZE, None))
        await s.doubted(capture)
        await s.refused(OperationInProgressError, s.request("u1", UNFREEZE, None))
        await s.declined(capture)
        assert (await s.unfreeze("u1")).entry.amount == 1_000

    @case
    async def test_unfreeze_of_nothing_is_refused(self, s: Scene) -> None:
        """A hold that is captured whole has no rest."""
        await s.hold(300)
        await s.captured("k1", 300)
        await s.refused(AuthorizationClosedError, s.request("u1", UNFREEZE, None))

    @case
    async def test_second_unfreeze_is_refused_in_every_state_of_the_first(self, s: Scene) -> None:
        """Held, in doubt or executed: another key's unfreeze is AlreadyUnfrozenError."""
        await s.hold()
        first = (await s.unfreeze("u1")).entry
        await s.refused(AlreadyUnfrozenError, s.request("u2", UNFREEZE, None))
        await s.doubted(first)
        await s.refused(AlreadyUnfrozenError, s.request("u2", UNFREEZE, None))
        await s.executed(first)
        await s.refused(AlreadyUnfrozenError, s.request("u2", UNFREEZE, None))
        assert (await s.sums()).unfrozen == 1_000

    @case
    async def test_capture_during_or_after_unfreeze_is_refused(self, s: Scene) -> None:
        """The reservation of an unfreeze closes the hold in the same transaction."""
        await s.hold()
        unfreeze = (await s.unfreeze("u1")).entry
        await s.refused(AuthorizationClosedError, s.request("k1", CAPTURE, 1))
        await s.doubted(unfreeze)
        await s.refused(AuthorizationClosedError, s.request("k1", CAPTURE, 1))
        await s.executed(unfreeze)
        await s.refused(AlreadyUnfrozenError, s.request("k1", CAPTURE, 1))

    @case
    async def test_failed_unfreeze_reopens(self, s: Scene) -> None:
        """After `not_sent` or a sure refusal captures and another unfreeze are admitted again."""
        await s.hold()
        await s.not_sent((await s.unfreeze("u1")).entry)
        await s.captured("k1", 300)
        await s.declined((await s.unfreeze("u2")).entry)
        assert (await s.balance()).capturable == 700
        assert (await s.unfreeze("u3")).entry.amount == 700

    @case
    async def test_refunds_do_not_block_an_unfreeze(self, s: Scene) -> None:
        """A refund under way concerns a capture, not the rest of the hold; refunds go on after it."""
        await s.hold()
        await s.captured("k1", 300, "CAP-1")
        await s.refund("r1", "CAP-1", 100)
        await s.executed((await s.unfreeze("u1")).entry)
        assert (await s.refund("r2", "CAP-1", 200)).fresh


class RefundCases(Cases):
    """Refunds of one capture."""

    @case
    async def test_refunds_never_exceed_their_capture(self, s: Scene) -> None:
        """Refunded, held and in doubt together stay within the capture; the error carries the numbers."""
        await s.hold()
        await s.captured("k1", 300, "CAP-1")
        await s.captured("k2", 400, "CAP-2")
        await s.executed((await s.refund("r1", "CAP-1", 100)).entry)
        await s.refund("r2", "CAP-1", 50)
        await s.doubted((await s.refund("r3", "CAP-1", 60)).entry)
        error = await s.refused(OverRefundError, s.request("r4", REFUND, 91, "CAP-1"))
        assert (error.requested, error.refundable) == (91, 90)
        assert (await s.refund("r4", "CAP-1", 90)).fresh
        assert (await s.refund("r5", "CAP-2", 400)).fresh

    @case
    async def test_failed_refund_gives_its_claim_back(self, s: Scene) -> None:
        """After `not_sent` or a refusal the amount is refundable again, and never captured money."""
        await s.hold()
        await s.captured("k1", 300, "CAP-1")
        await s.not_sent((await s.refund("r1", "CAP-1", 300)).entry)
        await s.declined((await s.refund("r2", "CAP-1", 300)).entry)
        await s.executed((await s.refund("r3", "CAP-1", 300)).entry)
        await s.refused(OverRefundError, s.request("r4", REFUND, 1, "CAP-1"))
        sums = await s.sums()
        assert (sums.refunded, sums.captured, sums.capturable) == (300, 300, 700)

    @case
    async def test_equal_refunds_may_wait_together(self, s: Scene) -> None:
        """Refunds carry a number of their own, so equal amounts are told apart."""
        await s.hold()
        await s.captured("k1", 300, "CAP-1")
        assert (await s.refund("r1", "CAP-1", 100)).fresh
        assert (await s.refund("r2", "CAP-1", 100)).fresh


class ReserveCases(RegisterCases, AdmissionCases, UnfreezeCases, RefundCases):
    """All of register, and of reserve with new keys."""
