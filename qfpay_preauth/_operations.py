"""Capture, unfreeze, refund: one way through the building, and the only place with branches.

permit → reserve → build → exchange → judge → conclude → (in doubt: look for evidence) → a result, or exactly one error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from qfpay_preauth import _retry
from qfpay_preauth._calls import Call, NoTurn, Queues
from qfpay_preauth._clock import Clock
from qfpay_preauth._events import call_event, entry_event, move_event, seen
from qfpay_preauth._models import (
    Answer,
    Delivery,
    Entry,
    Event,
    Judgement,
    NotSent,
    Operation,
    Request,
    Result,
    SignedRequest,
    State,
    Verdict,
)
from qfpay_preauth._outcomes import contradicted, recording_failed, result_of
from qfpay_preauth._retry import retry_after_s
from qfpay_preauth._settings import Settings
from qfpay_preauth._signing import Signer
from qfpay_preauth._turnstile import Permit, Turnstile
from qfpay_preauth._windows import Lane
from qfpay_preauth._wire import Sender, build, judge
from qfpay_preauth.errors import LedgerUnavailableError, OperationInProgressError, RateLimitedError
from qfpay_preauth.ledger import Ledger, Reserved, _rules

if TYPE_CHECKING:
    from qfpay_preauth._transport import Transport  # and with it aiohttp, which a bare import must not bring

log = logging.getLogger("qfpay_preauth")

BATCH_WAIT_MAX_S = 900.0  # 390 requests a minute: some thousand callers may be before it
LAPSED = "its place in the rate budget had lapsed"

Seek = Callable[[Entry, float, Lane], Awaitable[Entry]]
"""Looks for evidence about a doubtful entry until a deadline (monotonic seconds); returns the entry as it is then."""


@frozen
class Desk:
    """What an operation works with: one client's rooms, on one event loop."""

    settings: Settings
    clock: Clock
    ledger: Ledger
    transport: Transport
    turnstile: Turnstile
    queues: Queues
    sender: Sender
    keys: Sequence[Signer]
    seek: Seek
    emit: Callable[[Event], None]
    listens: bool
    """Whether anybody hears what is emitted; where nobody does, only doubts are worth an event."""


def perform(
    desk: Desk, call: Call, what: tuple[Operation, str], wish: Callable[[], Request], patience_s: float
) -> Coroutine[Any, Any, Result]:
    """Do what is wished, once, or say why not. `what` is the operation and the syssn that the caller gave; the request
    is dated when its turn has come.

    Returns: what to await for a Capture, an Unfreeze or a Refund.

    Raises:
        PreauthError: exactly one, whose `outcome` says whether money moved.
    """
    return (_perform_and_tell if desk.listens else _perform)(desk, call, what, wish, patience_s)


async def _perform_and_tell(
    desk: Desk, call: Call, what: tuple[Operation, str], wish: Callable[[], Request], patience_s: float
) -> Result:
    request, began = wish(), desk.clock.monotonic()
    try:
        result = await _perform(desk, call, what, wish, patience_s)
    except BaseException as error:
        _tell_end(desk, call, request, began, error)
        raise
    _tell_end(desk, call, request, began, result)
    return result


def _tell_end(desk: Desk, call: Call, request: Request, began: float, how: Result | BaseException) -> None:
    desk.emit(call_event(request, desk.clock.now(), call.number, desk.clock.monotonic() - began, how))


async def _perform(
    desk: Desk, call: Call, what: tuple[Operation, str], wish: Callable[[], Request], patience_s: float
) -> Result:
    operation, name = what
    if operation is Operation.REFUND:
        name = await _hold_of(desk, wish())
    if not desk.queues.enter(name):
        try:
            await _turn(desk, call, name)
        except NoTurn:
            return result_of(await _without_a_turn(desk, wish(), name), replayed=True)
    try:
        reserved, delivery = await _send_once(desk, call, wish)
        entry = reserved.entry
        if delivery is not None:
            entry = await _conclude(desk, call, entry, delivery)
    finally:
        desk.queues.leave(name)
    if entry.state is State.EXECUTED:
        return result_of(entry, replayed=not reserved.fresh)
    if entry.unresolved:
        log.warning("outcome of %s on %s is unknown: %s", entry.operation, entry.syssn, entry.detail)
        desk.emit(entry_event("doubt", entry, desk.clock.now(), call.number, detail=entry.detail))
        entry = await desk.seek(entry, min(call.deadline, desk.clock.monotonic() + patience_s), call.lane)
    wait_s = retry_after_s(delivery, desk.clock.now()) if delivery else None
    return result_of(entry, replayed=not reserved.fresh, retry_after_s=wait_s)


async def _turn(desk: Desk, call: Call, name: str) -> None:
    began = desk.clock.monotonic()
    await desk.queues.wait(name, _waits_until(desk, call) - began)
    _off_the_clock(desk, call, began)


async def _permit(desk: Desk, call: Call) -> Permit:
    began = desk.clock.monotonic()
    permit = await desk.turnstile.permit(_waits_until(desk, call), call.lane)
    _off_the_clock(desk, call, began)
    return permit


async def _permit_soon(desk: Desk, call: Call) -> Permit | None:
    """A permit, if there is room for one; who has to wait for room first looks whether its key needs any."""
    began = desk.clock.monotonic()
    try:
        permit = await desk.turnstile.soon(_waits_until(desk, call), call.lane)
    except RateLimitedError:
        return None
    _off_the_clock(desk, call, began)
    return permit


def _waits_until(desk: Desk, call: Call) -> float:
    """Until when a call waits for its turn and the budget: a person until the deadline, a batch as long as it takes."""
    return call.deadline if call.lane is Lane.INTERACTIVE else desk.clock.monotonic() + BATCH_WAIT_MAX_S


def _off_the_clock(desk: Desk, call: Call, began: float) -> None:
    """What a batch waited is not taken from its exchange: a slow but healthy answer must not become a doubt."""
    if call.lane is not Lane.INTERACTIVE:
        call.deadline += desk.clock.monotonic() - began


async def _hold_of(desk: Desk, request: Request) -> str:
    """QFPay refuses refunds of one order that are seconds apart: they queue with the hold's other writes."""
    capture = await desk.ledger.movement(request.account, request.syssn)
    return capture.authorization if capture else request.syssn


async def _send_once(desk: Desk, call: Call, wish: Callable[[], Request]) -> tuple[Reserved, Delivery | None]:
    """Reserve and deliver; no delivery where the ledger already knows the entry."""
    permit = desk.turnstile.try_permit() or await _permit_soon(desk, call)
    try:
        if permit is None and not await _known(desk, wish()):
            permit = await _permit_or_known(desk, call, wish)
        request = wish()
        reserved = await call.guarded(desk.ledger.reserve(request))
        if not reserved.fresh:
            return reserved, None
        if reserved.expired and request.operation is Operation.CAPTURE:
            log.warning("capturing on %s after its capture window, as far as it is known here", request.syssn)
        if desk.listens:
            desk.emit(move_event(reserved.entry, None, request.at, call.number))
        return reserved, await _deliver(desk, call, reserved.entry, permit)
    finally:
        if permit is not None:
            permit.give_back()


async def _permit_or_known(desk: Desk, call: Call, wish: Callable[[], Request]) -> Permit | None:
    """A permit; None where there was none in time, but another process has ended the same key meanwhile."""
    try:
        return await _permit(desk, call)
    except RateLimitedError:
        if await _known(desk, wish()) is None:
            raise
        return None


async def _known(desk: Desk, request: Request) -> Entry | None:
    """The entry that answers this request without the gateway: no turn and no budget is needed for it.

    Raises:
        IdempotencyConflictError, OperationInProgressError: as the ledger's `reserve` would.
    """
    return _rules.replayed(await desk.ledger.entry(request.account, request.idempotency_key), request)


async def _without_a_turn(desk: Desk, request: Request, name: str) -> Entry:
    known = await _known(desk, request)
    if known is None:
        raise OperationInProgressError(f"Another call on {name} did not end before this call's deadline.")
    return known


async def _deliver(desk: Desk, call: Call, entry: Entry, permit: Permit | None) -> Delivery:
    """One delivery, after as many attempts as are provably safe."""
    request = build(entry, desk.sender)
    made: list[Delivery] = []
    try:
        delivery = await _attempt(desk, call, entry, request, permit, made=made)
        if not _retry.may_try_again(delivery):
            return delivery
        return await _retry.send_again(
            delivery,
            lambda: _attempt(desk, call, entry, request, None, made=made),
            settings=desk.settings,
            deadline=call.deadline,
            monotonic=desk.clock.monotonic,
            now=desk.clock.now,
            give_up=lambda: call.off,
        )
    except (asyncio.CancelledError, RateLimitedError):
        # called off, or out of budget, while waiting to try again: no attempt so far did anything
        return made[-1] if made else NotSent("called off before it was sent")


async def _attempt(
    desk: Desk, call: Call, entry: Entry, request: SignedRequest, permit: Permit | None, *, made: list[Delivery]
) -> Delivery:
    """One exchange; its delivery is in `made` before anything else can happen: it must not be taken for not sent."""
    own = permit or await _permit(desk, call)
    try:
        body = call.body = desk.transport.body(request, own, lambda: _late(desk, call, entry, own))
        delivery = await desk.transport.exchange(request, body, call.deadline)
        made.append(delivery)
        tell(own, delivery, desk.clock)
    finally:
        call.body = None  # between attempts nothing is under way
        own.give_back()
    if desk.listens:
        desk.emit(entry_event("attempt", entry, desk.clock.now(), call.number, detail=seen(delivery)))
    return delivery


def tell(permit: Permit, delivery: Delivery, clock: Clock) -> None:
    """Let the budget know whether the gateway took the request or said 429."""
    if isinstance(delivery, Answer):
        limited = delivery.status == 429
        permit.told(limited, retry_after_s(delivery, clock.now()) if limited else None)


def _late(desk: Desk, call: Call, entry: Entry, permit: Permit) -> str | None:
    """Why the body may not leave any more, asked when its first byte is taken; None: it may."""
    if call.off:
        return "it was called off before it was sent"
    if permit.lapsed:
        return LAPSED
    return "its send-by has passed" if desk.clock.now() >= entry.send_by else None


async def _conclude(desk: Desk, call: Call, entry: Entry, delivery: Delivery) -> Entry:
    verdict = judge(entry, delivery, desk.keys)
    try:
        after = await call.guarded(desk.ledger.conclude(entry, verdict, desk.clock.now()))
    except LedgerUnavailableError as error:
        raise recording_failed(entry, verdict, error) from error
    if desk.listens:
        _tell_conclusion(desk, call, entry, after, verdict)
    if verdict.judgement is Judgement.EXECUTED and after.state is State.NOT_EXECUTED:
        raise contradicted(after, verdict)
    return after


def _tell_conclusion(desk: Desk, call: Call, entry: Entry, after: Entry, verdict: Verdict) -> None:
    at = desk.clock.now()
    desk.emit(move_event(after, entry.state, at, call.number))
    if verdict.mismatch:
        desk.emit(entry_event("discrepancy", after, at, call.number, detail=after.detail))
