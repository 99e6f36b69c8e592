"""Mutants of the way out and back: sending, judging, the budget, the caller's leaving."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from qfpay_preauth import _calls, _codes, _limits, _operations, _retry, _wire
from qfpay_preauth._codes import CodeClass
from qfpay_preauth._models import Answer, Delivery, Judgement, NotSent, Unknown, Verdict
from tests.simulation import wire
from tests.simulation.mutants import Patch, mutant

_NO = Verdict(Judgement.NOT_SENT, detail="mutant: taken for a no", rerunnable=True)


def _judge_where(patch: Patch, wrong: Any) -> None:
    """Replace the verdict on some deliveries."""
    right = _wire.judge

    def judge(entry: Any, delivery: Delivery, keys: Any) -> Verdict:
        verdict: Verdict = wrong(entry, delivery, right(entry, delivery, keys))
        return verdict

    patch(_operations, "judge", judge)


@mutant
def retry_on_a_lost_answer(patch: Patch) -> None:
    """A time-out or a cut connection is tried again."""
    right = _retry.may_try_again
    patch(_retry, "may_try_again", lambda delivery: isinstance(delivery, Unknown) or right(delivery))


@mutant
def retry_on_a_server_error(patch: Patch) -> None:
    """A 5xx is tried again."""
    right = _retry.may_try_again
    patch(
        _retry,
        "may_try_again",
        lambda delivery: (isinstance(delivery, Answer) and delivery.status >= 500) or right(delivery),
    )


@mutant
def a_time_out_is_a_no(patch: Patch) -> None:
    """Silence is taken for a no."""
    _judge_where(patch, lambda entry, delivery, right: _NO if isinstance(delivery, Unknown) else right)


@mutant
def a_server_error_is_a_no(patch: Patch) -> None:
    """HTTP 5xx is taken for a no."""
    _judge_where(patch, lambda e, d, right: _NO if isinstance(d, Answer) and d.status >= 500 else right)


@mutant
def not_found_is_a_no(patch: Patch) -> None:
    """HTTP 404 is taken for a no."""
    _judge_where(patch, lambda e, d, right: _NO if isinstance(d, Answer) and d.status == 404 else right)


@mutant
def a_redirect_is_a_yes(patch: Patch) -> None:
    """A 3xx is taken for a yes."""
    _judge_where(
        patch,
        lambda e, d, right: (
            Verdict(Judgement.EXECUTED, result_syssn="20260101000000000000000001")
            if isinstance(d, Answer) and 300 <= d.status < 400
            else right
        ),
    )


def _classify(patch: Patch, wrong: Any) -> None:
    right = _codes.classify
    patch(_wire, "classify", lambda code, text="": wrong(code) or right(code, text))


@mutant
def pending_is_a_no(patch: Patch) -> None:
    """1143 is taken for a refusal."""
    _classify(patch, lambda code: CodeClass.REFUSED if code == "1143" else None)


@mutant
def pending_is_a_yes(patch: Patch) -> None:
    """1143 is taken for success."""
    _classify(patch, lambda code: CodeClass.SUCCESS if code == "1143" else None)


@mutant
def an_unlisted_code_is_a_no(patch: Patch) -> None:
    """What is not in the table is taken for a refusal."""
    _classify(patch, lambda code: CodeClass.REFUSED if code in ("1205", "1297", "9999", "1251") else None)


@mutant
def accept_a_mismatching_yes(patch: Patch) -> None:
    """0000 counts whatever else the answer says."""

    def judge(entry: Any, delivery: Delivery, right: Verdict) -> Verdict:
        known = right.raw or {}
        if right.mismatch and right.code == "0000" and known.get("syssn"):
            return evolve(right, judgement=Judgement.EXECUTED, result_syssn=str(known["syssn"]), mismatch=False)
        return right

    _judge_where(patch, judge)


@mutant
def believe_a_mismatching_refusal(patch: Patch) -> None:
    """A refusal counts though it names another original or amount."""

    def judge(entry: Any, delivery: Delivery, right: Verdict) -> Verdict:
        if right.mismatch and right.code in ("1201", "1266", "1269"):
            return evolve(right, judgement=Judgement.DECLINED, mismatch=False)
        return right

    _judge_where(patch, judge)


@mutant
def follow_redirects(patch: Patch) -> None:
    """A 307 is followed: the money is posted again."""
    right = wire.SimTransport.post_once

    async def post_once(self: Any, request: Any, body: Any) -> Delivery:
        delivery = await right(self, request, body)
        if isinstance(delivery, Answer) and delivery.status == 307:
            body.taken = False
            return await right(self, request, body)
        return delivery

    patch(wire.SimTransport, "post_once", post_once)


@mutant
def send_after_send_by(patch: Patch) -> None:
    """A connection is waited for as long as it takes, and nobody looks at the clock before the body leaves."""
    patch(_operations, "_late", lambda *_: None)
    right = wire.SimTransport._post

    async def post(self: Any, request: Any, body: Any, total_s: float) -> Delivery:
        await self._process.world.connect()
        return await right(self, request, body, total_s)

    patch(wire.SimTransport, "_post", post)


@mutant
def release_on_cancel(patch: Patch) -> None:
    """Who is cancelled takes the request for not sent."""

    def abandon(self: Any, *, even_if_sent: bool = False) -> None:
        self.left = True
        if self.task is not None:
            self.task.cancel()

    patch(_calls.Call, "abandon", abandon)
    _judge_where(patch, lambda e, d, right: _NO if isinstance(d, Unknown) and "Cancelled" in d.detail else right)


@mutant
def the_budget_is_ignored(patch: Patch) -> None:
    """Every permit is given at once."""
    patch(_limits.Budget, "_wait_ms", lambda self, now_ms: 0)


@mutant
def a_spent_permit_is_given_back(patch: Patch) -> None:
    """Sending does not count."""
    patch(_limits.Budget, "spend", lambda self, now_ms: self.give_back())


@mutant
def sent_before_it_is_reserved(patch: Patch) -> None:
    """The request leaves first, and the ledger hears of it afterwards."""
    right = _operations._deliver
    reserve = _operations._send_once

    async def send_once(desk: Any, call: Any, wish: Any) -> Any:
        request = wish()
        if await desk.ledger.entry(request.account, request.idempotency_key) is None and request.amount:
            entry = _entry_of(request)
            delivery = await right(desk, call, entry, None)
            reserved = await desk.ledger.reserve(wish())
            return reserved, delivery if reserved.fresh else None
        return await reserve(desk, call, wish)

    patch(_operations, "_send_once", send_once)


def _entry_of(request: Any) -> Any:
    from qfpay_preauth._models import Entry, State

    return Entry(
        account=request.account,
        idempotency_key=request.idempotency_key,
        operation=request.operation,
        authorization=request.syssn,
        syssn=request.syssn,
        amount=request.amount,
        currency="HKD",
        out_trade_no=request.out_trade_no,
        state=State.HELD,
        attempt=1,
        reserved_at=request.at,
        send_by=request.send_by,
        doubt_at=request.doubt_at,
    )


@mutant
def a_lost_body_is_not_sent(patch: Patch) -> None:
    """The exception's class decides, not whether the body left."""
    right = _wire.judge

    def judge(entry: Any, delivery: Delivery, keys: Any) -> Verdict:
        reset = isinstance(delivery, Unknown) and "ConnectionReset" in delivery.detail
        return right(entry, NotSent("reset") if reset else delivery, keys)

    patch(_operations, "judge", judge)


@mutant
def a_wrong_signature_is_believed(patch: Patch) -> None:
    """Every notification is taken for genuine."""
    from qfpay_preauth._signing import Signer

    patch(Signer, "body_matches", lambda self, body, signature: True)


@mutant
def an_unsigned_notice_is_believed(patch: Patch) -> None:
    """A notification without a signature is taken for genuine."""
    from qfpay_preauth import notifications

    right = notifications.verified

    def verified(body: bytes, headers: Any, keys: Any) -> Any:
        if any(name.lower() == "x-qf-sign" for name in headers):
            return right(body, headers, keys)
        return _wire.read_notification(body)

    patch(notifications, "verified", verified)


@mutant
def success_before_the_commit(patch: Patch) -> None:
    """A notification is acknowledged first and stored afterwards."""
    import asyncio

    from qfpay_preauth import PreauthClient, notifications

    right = PreauthClient.handle_notification

    async def handle(self: Any, body: bytes, headers: Any) -> Any:
        notice = notifications.verified(body, headers, self._notification_keys())
        self._stored_later = asyncio.create_task(right(self, body, headers))
        return notice

    patch(PreauthClient, "handle_notification", handle)
