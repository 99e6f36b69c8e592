"""`PreauthClient`: the face of the building. Methods check what they are given and pass it on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import cast

from qfpay_preauth import _checks, _enquiry, _wire
from qfpay_preauth._batch_rows import BatchOutcome, Row
from qfpay_preauth._batch_teller import Teller, run_batch
from qfpay_preauth._books import BooksClient
from qfpay_preauth._calls import Call
from qfpay_preauth._models import (
    Authorization,
    Capture,
    Operation,
    PaymentIntent,
    Refund,
    Request,
    Result,
    Unfreeze,
)
from qfpay_preauth._money import AMOUNT_ADVISED_ABOVE, check_amount
from qfpay_preauth._operations import perform
from qfpay_preauth._windows import Lane
from qfpay_preauth.errors import InvalidRequestError, PreauthError, shown

log = logging.getLogger("qfpay_preauth")


class PreauthClient(BooksClient):
    """Captures, unfreezes and refunds pre-authorisations, never taking the money twice.

    Args:
        credentials: what QFPay assigned.
        environment: "sandbox", "live_test" or "production".
        base_url: another host than the environment's (https, or http to a loopback address).
        ledger: "memory://", "sqlite:///path", or a Ledger object (then not closed by this client).
        settings: how it behaves.

    Use it as `async with PreauthClient(...) as client`, or call `aclose()`. One client serves any number of tasks of
    one event loop; after `aclose()` it can be entered again, also in another loop.

    Raises:
        ConfigurationError: something given cannot work.
    """

    # ------------------------------------------------------------------ before the freeze

    async def create_payment_intent(
        self,
        amount: int,
        currency: str,
        *,
        out_trade_no: str,
        pay_type: str,
        return_url: str | None = None,
        failed_url: str | None = None,
        notify_url: str | None = None,
    ) -> PaymentIntent:
        """Ask for the intent that the browser's Payment Element needs (QFPay, Payment Element).

        Args:
            amount: int minor units.
            currency: one of QFPay's.
            out_trade_no: the merchant's order number, new for each intent.
            pay_type: as QFPay told the merchant; none is documented for card pre-authorisations.
            return_url, failed_url, notify_url: without `&`, `=` and comma.

        Raises:
            InvalidRequestError: an argument is wrong.
            GatewayError (and its kinds), NotSentError: no intent; no money moves by this call, it may be repeated.
        """
        self._check_money(amount, currency)
        _checks.check_id("out_trade_no", out_trade_no)
        _checks.check_pay_type(pay_type)
        given = {"return_url": return_url, "failed_url": failed_url, "notify_url": notify_url}
        urls = {name: _checks.check_url(name, url) for name, url in given.items() if url is not None}
        wish = _wire.IntentRequest(amount, currency, out_trade_no, pay_type, urls)
        return await self._call(lambda desk, call: _enquiry.payment_intent(desk, call, wish))

    async def register_authorization(
        self,
        syssn: str,
        amount: int,
        currency: str,
        *,
        out_trade_no: str,
        authorized_at: datetime | None = None,
        capture_window: timedelta | None = None,
    ) -> Authorization:
        """Write a hold into the ledger, before its first capture; the same again changes nothing.

        Args:
            syssn: the pre-authorisation's id, as the browser's Payment Element got it.
            amount: the held sum, int minor units.
            currency: one of QFPay's.
            out_trade_no: the merchant's order number of the pre-authorisation (an unfreeze needs it).
            authorized_at: when it was held (aware).
            capture_window: how long it can be captured (QFPay: 7 days for most merchants, up to 28 by contract).

        Raises:
            InvalidRequestError: an argument is wrong.
            IdempotencyConflictError: it is registered with something else.
            LedgerUnavailableError: it could not be written.
        """
        self._check_money(amount, currency)
        hold = Authorization(
            account=self.account,
            syssn=_checks.check_id("syssn", syssn),
            amount=amount,
            currency=currency,
            out_trade_no=_checks.check_id("out_trade_no", out_trade_no),
            registered_at=self._clock.now(),
            authorized_at=None if authorized_at is None else _checks.check_moment("authorized_at", authorized_at),
            capture_window=None if capture_window is None else _checks.check_window(capture_window),
        )
        await self._desk()
        return await self._ledger.register(hold)

    # ------------------------------------------------------------------ what moves money

    async def capture(
        self,
        syssn: str,
        amount: int,
        *,
        idempotency_key: str,
        deadline_s: float | None = None,
        patience_s: float | None = None,
    ) -> Capture:
        """Take part or all of a hold (QFPay, Online Pre-Authorisation: Capture).

        Args:
            syssn: the authorization's.
            amount: int minor units; all captures together never exceed the hold.
            idempotency_key: the caller's name for this business intent, the same on every retry.
            deadline_s: seconds for the whole call; default: `Settings.deadline_s`.
            patience_s: seconds to look for evidence where the answer was lost; default: `Settings.patience_s`.

        Raises:
            InvalidRequestError, LedgerError, NotSentError, GatewayError (and their kinds): no money moved.
            OutcomeUnknownError: it may have; the amount stays claimed. Call again with the same key.
        """
        check_amount(amount)
        timing = (deadline_s, patience_s)
        return cast(Capture, await self._operate(Operation.CAPTURE, syssn, amount, idempotency_key, *timing))

    async def unfreeze(
        self,
        syssn: str,
        amount: int | None = None,
        *,
        idempotency_key: str,
        deadline_s: float | None = None,
        patience_s: float | None = None,
    ) -> Unfreeze:
        """Release exactly what was not captured, once, for good (QFPay, Online Pre-Authorisation: Unfreeze).

        Args:
            syssn: the authorization's.
            amount: if given, must equal what is left (int minor units): a check against a stale view.
            idempotency_key, deadline_s, patience_s: as for `capture`.

        Raises:
            AlreadyUnfrozenError: it was unfrozen, or is being unfrozen, under another key; otherwise as `capture`.
        """
        if amount is not None:
            check_amount(amount)
        timing = (deadline_s, patience_s)
        return cast(Unfreeze, await self._operate(Operation.UNFREEZE, syssn, amount, idempotency_key, *timing))

    async def refund(
        self,
        capture_syssn: str,
        amount: int,
        *,
        idempotency_key: str,
        deadline_s: float | None = None,
        patience_s: float | None = None,
    ) -> Refund:
        """Give back part or all of a capture (QFPay, Payment API: Refund).

        Args:
            capture_syssn: the capture's own id (`Capture.syssn`), not the authorization's.
            amount: int minor units; all refunds together never exceed the capture.
            idempotency_key, deadline_s, patience_s: as for `capture`.

        Raises:
            UnknownCaptureError, OverRefundError; otherwise as `capture`.
        """
        check_amount(amount)
        _checks.check_id("capture_syssn", capture_syssn)
        timing = (deadline_s, patience_s)
        return cast(Refund, await self._operate(Operation.REFUND, capture_syssn, amount, idempotency_key, *timing))

    def capture_many(
        self,
        rows: Iterable[Row] | AsyncIterable[Row],
        *,
        concurrency: int = 16,
        accounts: Mapping[str, PreauthClient] | None = None,
        deadline_s: float | None = None,
        patience_s: float | None = None,
        stop: asyncio.Event | None = None,
    ) -> AsyncGenerator[BatchOutcome, None]:
        """Run many rows (captures, unfreezes, refunds) with bounded concurrency; yields what became of each as it ends.

        Rows of one hold run one after another in their order; others in any. No bad row stops the rest. What is in
        doubt from before is looked at first. A row that did not reach the gateway, met a 429, or finds something in its
        way that will end, is tried again within the run. Run the same rows again, after a crash too: what was executed
        comes as `replayed`, and only what did not happen is sent.

        Args:
            rows: taken one by one as there is room, so the iterable may be endless; BatchRow, or mappings with the
                column names of a file, amounts as ints or text of digits. A bad one becomes an `invalid` outcome (and
                an outcome is passed on as it is).
            concurrency: how many rows of one account may be under way, 1 to 1,000.
            accounts: name → its open client, for rows that name one; each keeps its own budget.
            deadline_s, patience_s: of each row, as for `capture`; waiting for the budget does not count.
            stop: once it is set, nothing more is sent; what is under way ends, and its outcomes still come.

        Leaving the loop early (closing the generator, or being cancelled) drains too, but those outcomes are only in
        the ledger then.

        Raises:
            InvalidRequestError: an argument is wrong.
            CredentialsRejectedError, LedgerUnavailableError, ConfigurationError: the batch stopped at the first; raised
                after the outcomes of all rows that were under way. What `rows` itself raises, likewise.
        """
        if type(concurrency) is not int or not 1 <= concurrency <= 1_000:
            raise InvalidRequestError(f"concurrency must be an int from 1 to 1000, not {shown(concurrency, 40)}.")
        for name, seconds, low in (("deadline_s", deadline_s, 0.001), ("patience_s", patience_s, 0.0)):
            if seconds is not None:
                _checks.check_seconds(name, seconds, low=low)
        clients: dict[str | None, PreauthClient] = {None: self, self.account: self}
        clients.update(accounts or {})
        group = object()
        tellers = {
            client: Teller(client, client._operate, client.register_authorization, (deadline_s, patience_s), group)
            for client in clients.values()
        }
        return run_batch({name: tellers[client] for name, client in clients.items()}, rows, concurrency, stop)

    async def _operate(  # noqa: PLR0917 - the three methods above hand on exactly what they were given
        self,
        operation: Operation,
        syssn: str,
        amount: int | None,
        idempotency_key: str,
        deadline_s: float | None,
        patience_s: float | None,
        lane: Lane = Lane.INTERACTIVE,
        group: object = None,
    ) -> Result:
        _checks.check_id("syssn", syssn)
        _checks.check_key(idempotency_key)
        deadline = _seconds("deadline_s", deadline_s, self.settings.deadline_s, low=0.001)
        patience = _seconds("patience_s", patience_s, self.settings.patience_s)
        if amount is not None and amount <= AMOUNT_ADVISED_ABOVE:
            log.warning("%s of %d: QFPay advises amounts above 200 (risk control)", operation, amount)

        def wish() -> Request:
            return self._request(operation, syssn, amount, idempotency_key, deadline)

        try:
            running = self._running_here() or await self._ready()
            call = Call(self._clock.monotonic() + deadline, lane, group)
            work = perform(running.desk, call, (operation, syssn), wish, patience)
            return await running.calls.run(call, work)
        except PreauthError as error:
            error.idempotency_key = error.idempotency_key or idempotency_key
            raise

    def _request(
        self, operation: Operation, syssn: str, amount: int | None, idempotency_key: str, deadline_s: float
    ) -> Request:
        now = self._clock.now()
        send_by = now + _span(deadline_s)
        numbered = operation is Operation.REFUND or (operation is Operation.CAPTURE and self.settings.capture_reference)
        return Request(
            self.account,
            idempotency_key,
            operation,
            syssn,
            amount,
            _wire.own_reference(self.account, operation, idempotency_key) if numbered else None,
            now,
            send_by,
            doubt_at=send_by + _span(self.settings.timeout_total_s),
            default_window=self.settings.default_capture_window,
            strict_expiry=self.settings.strict_expiry,
        )


@lru_cache(maxsize=64)
def _span(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def _seconds(name: str, value: object, default: float, *, low: float = 0.0) -> float:
    return default if value is None else _checks.check_seconds(name, value, low=low)
