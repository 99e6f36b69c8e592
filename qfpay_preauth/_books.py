"""The methods of `PreauthClient` that move no money: the books, the gateway's own rows, and the end of doubts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime, timedelta

from attrs import evolve

from qfpay_preauth import _checks, _enquiry, _import, _outcomes, _recover, notifications
from qfpay_preauth._events import move_event
from qfpay_preauth._lifetime import ClientBase
from qfpay_preauth._looks import Reader, tell
from qfpay_preauth._models import (
    Authorization,
    Balance,
    ConfirmedBy,
    Doubt,
    Entry,
    Event,
    Expiring,
    Judgement,
    Movement,
    Notification,
    Observed,
    ReconcileReport,
    SignedRequest,
    State,
    Transaction,
    Verdict,
    Why,
)
from qfpay_preauth._money import check_amount, exponent_of
from qfpay_preauth._reconcile import USUAL_WINDOW, run_forever
from qfpay_preauth._recover import RecoverReport
from qfpay_preauth.errors import (
    IdempotencyConflictError,
    InvalidRequestError,
    Outcome,
    UnknownAuthorizationError,
)
from qfpay_preauth.ledger import After
from qfpay_preauth.ledger._rules import balance_of

_LISTING_PAGE = 200


class BooksClient(ClientBase):
    """What can be asked and told; the face is `PreauthClient`."""

    def _check_money(self, amount: object, currency: object) -> None:
        check_amount(amount)
        exponent_of(currency, self.settings.currency_exponents)

    # ------------------------------------------------------------------ what only reads

    async def query(
        self,
        *,
        syssn: str | Sequence[str] = (),
        out_trade_no: str | Sequence[str] = (),
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> AsyncGenerator[Transaction, None]:
        """The gateway's own rows (QFPay, Transaction Enquiry), page by page and month by month, each syssn once.

        Args:
            syssn, out_trade_no: one id or several; both given: rows must match both.
            start, end: aware moments; default: from the oldest date in `syssn`, or this month's first, until now.

        Raises:
            InvalidRequestError: an argument is wrong.
            GatewayError (and its kinds), NotSentError: no usable answer; an absent row proves nothing.
        """
        ids = _ids("syssn", syssn), _ids("out_trade_no", out_trade_no)
        now = self._clock.now()
        low = _enquiry.first_month(*ids, now) if start is None else _checks.check_moment("start", start)
        high = now if end is None else _checks.check_moment("end", end)
        if low > high:
            raise InvalidRequestError("start must not be after end.")

        async def page(request: SignedRequest) -> dict[str, object]:
            return await self._call(lambda desk, call: _enquiry.ask(desk, call, request))

        desk = await self._desk()
        async for row in _enquiry.transactions(page, desk.sender, *ids, (low, high)):
            yield row

    async def balance(self, syssn: str) -> Balance:
        """Our books of one authorization.

        Raises:
            UnknownAuthorizationError: it is not registered.
        """
        _checks.check_id("syssn", syssn)
        await self._desk()
        books = await self._ledger.books(self.account, syssn)
        if books is None:
            raise UnknownAuthorizationError(f"Authorization {syssn} is not registered for account {self.account!r}.")
        return balance_of(books.authorization, books.unresolved, self._clock.now())

    async def entry(self, idempotency_key: str) -> Entry | None:
        """The entry under a key, or None."""
        _checks.check_key(idempotency_key)
        await self._desk()
        entry = await self._ledger.entry(self.account, idempotency_key)
        return entry and _outcomes.handed_out(entry)

    async def history(self, idempotency_key: str) -> Sequence[Event]:
        """Everything that happened to the entry under a key, oldest first; empty where there is none."""
        _checks.check_key(idempotency_key)
        await self._desk()
        return await self._ledger.events(self.account, idempotency_key)

    async def movement(self, syssn: str) -> Movement | None:
        """What a transaction id of the gateway is in our books (a hold, a capture …), and whose; None: nobody's."""
        _checks.check_id("syssn", syssn)
        await self._desk()
        return await self._ledger.movement(self.account, syssn)

    async def in_doubt(self) -> AsyncGenerator[Doubt, None]:
        """Every entry whose outcome is not known, oldest first."""
        await self._desk()
        after: After | None = None
        while True:
            found = await self._ledger.doubts(self.account, self._clock.now(), after, _LISTING_PAGE)
            for entry in found:
                yield _outcomes.doubt_of(entry, self._clock.now())
            if len(found) < _LISTING_PAGE:
                return
            after = After(found[-1].reserved_at, found[-1].idempotency_key)

    async def expiring(self, within: timedelta) -> AsyncGenerator[Expiring, None]:
        """Holds whose capture window ends within `within` (or has ended) with money uncaptured or in doubt.

        The window is the one given at registration, else `Settings.default_capture_window`, else QFPay's usual 7 days;
        it runs from `authorized_at`, or from the registration.

        Raises:
            InvalidRequestError: `within` is not a timedelta.
        """
        if not isinstance(within, timedelta):
            raise InvalidRequestError("within must be a timedelta.")
        window = self.settings.default_capture_window or USUAL_WINDOW
        await self._desk()
        for hold in await self._ledger.expiring(self.account, self._clock.now() + within, window):
            ends = hold.expires_at(window)
            assert ends is not None  # noqa: S101 - a window was given
            yield Expiring(hold.syssn, ends, hold.amount, hold.capturable, hold.claimed, hold.currency)

    # ------------------------------------------------------------------ ending doubt

    async def recover(self, since: datetime | None = None) -> RecoverReport:
        """After an older ledger was restored, and before its first write: bring in what the gateway did since.

        Args:
            since: from when on to read (aware); default: the ledger's last comparison, or its first hold.

        Raises:
            InvalidRequestError: `since` is wrong, or it is missing and the ledger knows no holds.
            GatewayError (and its kinds), NotSentError, LedgerUnavailableError: it could not go on; call again.
        """
        moment = None if since is None else _checks.check_moment("since", since)
        desk = await self._desk()
        assert self._running is not None  # noqa: S101 - _desk has just seen to it
        return await _recover.recover(Reader(desk), self._running.reconciler, self.account, moment)

    async def import_authorization(self, *, syssn: str | None = None, out_trade_no: str | None = None) -> Authorization:
        """Register a hold from the gateway's own list, with the captures, unfreeze and refunds it already has.

        Args:
            syssn: the hold's id, or
            out_trade_no: its merchant order number (looked for in the last 62 days).

        Raises:
            InvalidRequestError: neither or both are given, or several holds carry the number.
            UnknownAuthorizationError: the gateway does not show it.
            AuthorizationClosedError: the gateway marks it as ended, and no rows explain it.
            OperationInProgressError: something on it is still pending.
            IdempotencyConflictError: something of it is known otherwise.
            GatewayError (and its kinds), NotSentError: no usable answer.
        """
        if (syssn is None) == (out_trade_no is None):
            raise InvalidRequestError("Give either syssn or out_trade_no.")
        for name, value in (("syssn", syssn), ("out_trade_no", out_trade_no)):
            if value is not None:
                _checks.check_id(name, value)
        desk = await self._desk()
        reader = Reader(desk)
        hold = await _import.find(reader, self.account, syssn=syssn, out_trade_no=out_trade_no)
        self._check_money(hold.amount, hold.currency)
        rows = await _import.history(reader, hold)
        if await self._ledger.books(self.account, hold.syssn) is not None:
            hold = evolve(hold, authorized_at=None)  # what was registered stands
        return await self._ledger.adopt(hold, rows, self._clock.now())

    async def handle_notification(self, body: bytes, headers: Mapping[str, str]) -> Notification:
        """Verify one of QFPay's notifications, keep it durably, and end the doubt that it proves (see `notifications`).

        Args:
            body: the raw bytes, untouched.
            headers: the request's headers, in any case.

        Raises:
            InvalidSignatureError: it was not signed with our (or our previous) key; it changed nothing.
            InvalidRequestError: it is longer than 64 KiB, or not a JSON object.
            LedgerUnavailableError: it could not be kept: answer 500, and QFPay sends it again.
        """
        notice = notifications.verified(body, headers, self._notification_keys())
        await self._desk()
        observed = await self._ledger.notice(self.account, notice, self._clock.now())
        self._noticed(notice, observed)
        return notice

    def _noticed(self, notice: Notification, observed: Observed) -> None:
        running = self._running
        if running is None:  # the client is closing: what was written stays written
            return
        tell(running.desk, observed, self._clock.now())
        if observed.fresh and not observed.explained and notice.syssn:
            detail = f"{notice.kind} {notice.syssn}"
            running.desk.emit(Event(self.account, self._clock.now(), "notice", notice.orig_syssn or "", detail=detail))
            running.seeker.nudge(notice.syssn)

    async def reconcile(self) -> ReconcileReport:
        """One pass: end doubts by evidence, compare everything since the last pass, report every difference.

        It sends enquiries only, within a quarter of the minute's budget.

        Raises:
            GatewayError (and its kinds), NotSentError, LedgerUnavailableError: it could not go on; call again.
        """
        await self._desk()
        assert self._running is not None  # noqa: S101 - _desk has just seen to it
        return await self._running.reconciler.run()

    async def run_reconciler(self, interval_s: float) -> None:
        """Reconcile until cancelled (or `aclose()`): a pass every `interval_s`, doubts within seconds, then ever later.

        Run it as a task beside the application: `asyncio.create_task(client.run_reconciler(300))`.

        Raises:
            InvalidRequestError: `interval_s` is not a number of seconds.
        """
        _checks.check_seconds("interval_s", interval_s, low=0.01)
        await self._desk()
        running = self._running
        assert running is not None  # noqa: S101 - _desk has just seen to it
        task = asyncio.create_task(run_forever(running.reconciler, interval_s, running.doubt))
        running.background.add(task)
        try:
            await asyncio.wait((task,))
        finally:
            running.background.discard(task)
            task.cancel()
        if not task.cancelled():
            task.result()

    async def resolve(self, idempotency_key: str, outcome: Outcome, *, reason: str, syssn: str | None = None) -> Entry:
        """Record a person's decision about an entry in doubt; evidence that later disagrees is a discrepancy.

        Args:
            idempotency_key: the entry's.
            outcome: `Outcome.HAPPENED` or `Outcome.NOTHING_HAPPENED`.
            reason: why, 1 to 1,000 printable characters.
            syssn: the operation's own id where it is known (a later refund of a capture needs it).

        Raises:
            InvalidRequestError: an argument is wrong, or there is no such entry.
            OperationInProgressError: the entry may still be under way.
            IdempotencyConflictError: it has already ended otherwise, or `syssn` belongs to somebody else.
        """
        verdict = _decision(outcome, reason, syssn)
        entry = await self.entry(idempotency_key)
        if entry is None:
            raise InvalidRequestError(f"There is no entry under key {idempotency_key!r}.")
        after = await self._ledger.conclude(entry, verdict, self._clock.now())
        decided = State.EXECUTED if outcome is Outcome.HAPPENED else State.NOT_EXECUTED
        if after.state is not decided or (syssn and after.result_syssn != syssn):
            raise IdempotencyConflictError(
                f"Key {idempotency_key!r} is {after.state.value} ({after.detail or after.result_syssn}).",
                advice="An ended entry never changes; a contradiction was recorded as a discrepancy.",
                idempotency_key=idempotency_key,
            )
        if after.state is not entry.state:
            (await self._desk()).emit(move_event(after, entry.state, self._clock.now()))
        return _outcomes.handed_out(after)


def _decision(outcome: object, reason: object, syssn: object) -> Verdict:
    if outcome not in (Outcome.HAPPENED, Outcome.NOTHING_HAPPENED):
        raise InvalidRequestError("outcome must be Outcome.HAPPENED or Outcome.NOTHING_HAPPENED.")
    happened = outcome is Outcome.HAPPENED
    if syssn is not None and not happened:
        raise InvalidRequestError("syssn belongs to Outcome.HAPPENED only.")
    return Verdict(
        Judgement.EXECUTED if happened else Judgement.DECLINED,
        result_syssn=None if syssn is None else _checks.check_id("syssn", syssn),
        confirmed_by=ConfirmedBy.OPERATOR,
        why=Why.OPERATOR,
        reason=_checks.check_reason(reason),
    )


def _ids(name: str, value: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(_checks.check_id(name, each) for each in ([value] if isinstance(value, str) else value))
