"""The frozen values that travel through the building, and the words they are made of."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from attrs import field, frozen

from qfpay_preauth._frozen import passing, sealed


class Operation(enum.StrEnum):
    """What moves money."""

    CAPTURE = "capture"
    UNFREEZE = "unfreeze"
    REFUND = "refund"


class State(enum.StrEnum):
    """Where an entry stands."""

    HELD = "held"
    IN_DOUBT = "in_doubt"
    EXECUTED = "executed"
    NOT_EXECUTED = "not_executed"


_HELD, _IN_DOUBT = State.HELD, State.IN_DOUBT  # asked for often, and an enumeration is slow before Python 3.12


class Why(enum.StrEnum):
    """Why an entry ended not executed (OPERATOR also marks a person's "it happened")."""

    NOT_SENT = "not_sent"
    DECLINED = "declined"
    LAPSED = "lapsed"
    OPERATOR = "operator"


class ConfirmedBy(enum.StrEnum):
    """What ended an entry."""

    ANSWER = "answer"
    ENQUIRY = "enquiry"
    NOTIFICATION = "notification"
    OPERATOR = "operator"


# ------------------------------------------------------------------------------------------------ books


@sealed
class Authorization:
    """A customer's held sum and what became of it; all amounts int minor units of `currency`.

    `claimed` is what unresolved captures reserved (held and in doubt); `foreign_*` were made elsewhere (in the portal).
    """

    account: str
    syssn: str
    amount: int
    currency: str
    out_trade_no: str
    registered_at: datetime
    authorized_at: datetime | None = None
    capture_window: timedelta | None = None
    captured: int = 0
    claimed: int = 0
    unfrozen: int = 0
    refunded: int = 0
    foreign_captured: int = 0
    foreign_unfrozen: int = 0
    foreign_refunded: int = 0
    flagged: bool = False

    @property
    def capturable(self) -> int:
        """What a new capture could take, or an unfreeze release: never below zero."""
        taken = self.captured + self.claimed + self.foreign_captured + self.unfrozen + self.foreign_unfrozen
        return max(0, self.amount - taken)

    def expires_at(self, default_window: timedelta | None = None) -> datetime | None:
        """When the capture window ends (QFPay, Pre-Authorisation: 7 days for most, up to 28 by contract).

        Counted from `authorized_at`, or from the registration where it was not given; None: no window is known.
        """
        window = self.capture_window or default_window
        return None if window is None else (self.authorized_at or self.registered_at) + window


@sealed
class Movement:
    """One transaction id of the gateway and whom it belongs to: the hold, an entry, or nobody here (foreign)."""

    account: str
    syssn: str
    kind: str
    authorization: str
    amount: int
    idempotency_key: str | None = None
    executed: bool = True
    refunded: int = 0
    refund_claimed: int = 0
    foreign_refunded: int = 0


@sealed
class Entry:
    """One operation under one idempotency key.

    `syssn` is the authorization's (capture, unfreeze) or the capture's (refund), as the caller gave it;
    `result_syssn` is the operation's own, once an answer named it. `send_by` is the moment after which it may no
    longer be sent; from `doubt_at` on, a held entry counts as in doubt for everybody. `attention` says why evidence
    cannot end its doubt by rule; `absences` counts the complete enquiries past the quiet period that did not show it.
    """

    account: str
    idempotency_key: str
    operation: Operation
    authorization: str
    syssn: str
    amount: int
    currency: str
    out_trade_no: str | None
    state: State
    attempt: int
    reserved_at: datetime
    send_by: datetime
    doubt_at: datetime
    why: Why | None = None
    rerunnable: bool = False
    result_syssn: str | None = None
    code: str | None = None
    message: str | None = None
    detail: str | None = None
    system_time: datetime | None = None
    confirmed_by: ConfirmedBy | None = None
    concluded_at: datetime | None = None
    reason: str | None = None
    attention: str | None = None
    absences: int = 0
    raw: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def unresolved(self) -> bool:
        """Whether it still claims its amount."""
        return self.state is _HELD or self.state is _IN_DOUBT

    def doubtful(self, now: datetime) -> bool:
        """Whether it counts as in doubt at `now`: it is, or it was held too long ago to be still under way."""
        return self.state is _IN_DOUBT or (self.state is _HELD and now >= self.doubt_at)


@passing
class Request:
    """What a caller wants, checked: the ledger turns it into an entry or says no."""

    account: str
    idempotency_key: str
    operation: Operation
    syssn: str
    amount: int | None
    out_trade_no: str | None
    at: datetime
    send_by: datetime
    doubt_at: datetime
    default_window: timedelta | None = None
    strict_expiry: bool = False
    twins_allowed: bool = False


@sealed
class Event:
    """One line of the append-only history: an entry's move, or something seen about an authorization."""

    account: str
    at: datetime
    kind: str
    authorization: str
    idempotency_key: str | None = None
    from_state: State | None = None
    to_state: State | None = None
    amount: int = 0
    detail: str | None = None


# ------------------------------------------------------------------------------------------------ the wire


@passing
class SignedRequest:
    """One request, ready to be sent: the path, the headers, the body."""

    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class NotSent:
    """No byte of the body left this machine."""

    detail: str


@passing
class Answer:
    """What came back, untouched."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@frozen
class Unknown:
    """The body was handed over, and no whole answer came back."""

    detail: str


Delivery = NotSent | Answer | Unknown


class Judgement(enum.StrEnum):
    """What a delivery says about an entry."""

    EXECUTED = "executed"
    DECLINED = "declined"
    NOT_SENT = "not_sent"
    IN_DOUBT = "in_doubt"


@passing
class Verdict:
    """The judgement on a delivery (or on evidence, or a person's decision), with all that goes into the entry."""

    judgement: Judgement
    code: str | None = None
    message: str | None = None
    detail: str | None = None
    result_syssn: str | None = None
    system_time: datetime | None = None
    raw: Mapping[str, Any] | None = field(default=None, repr=False)
    rerunnable: bool = False
    retry_after_s: float | None = None
    flags_authorization: bool = False
    mismatch: bool = False
    confirmed_by: ConfirmedBy = ConfirmedBy.ANSWER
    why: Why | None = None
    reason: str | None = None


# ------------------------------------------------------------------------------------------------ results


@frozen
class Result:
    """What the gateway confirmed; amounts are int minor units of `currency`.

    Attributes:
        syssn: the operation's own id (a refund later needs a capture's), or None where a person decided without it.
        orig_syssn: the authorization's id, or for a refund the capture's.
        code, message, system_time: the gateway's, where it answered (`system_time` is aware).
        replayed: True when the ledger answered and no request was sent.
        confirmed_by: "answer", "enquiry", "notification" or "operator".
        raw: the gateway's fields as they came, without card data.
    """

    syssn: str | None
    orig_syssn: str
    amount: int
    currency: str
    idempotency_key: str
    code: str | None = None
    message: str | None = None
    system_time: datetime | None = None
    replayed: bool = False
    confirmed_by: str = "answer"
    raw: Mapping[str, Any] = field(factory=dict, repr=False)


@frozen
class Capture(Result):
    """Part or all of the hold was taken."""


@frozen
class Unfreeze(Result):
    """The rest of the hold was released, for good."""


@frozen
class Refund(Result):
    """Part or all of a capture was given back."""


@frozen
class PaymentIntent:
    """What the browser's Payment Element needs; `intent_expiry` is the gateway's (aware, assumed UTC+8)."""

    payment_intent: str
    intent_expiry: datetime | None
    out_trade_no: str
    amount: int
    currency: str
    raw: Mapping[str, Any] = field(factory=dict, repr=False)


@sealed
class Transaction:
    """One row of the gateway's transaction enquiry; `code` is the transaction's own, fields may be None.

    `unreadable`: its amount, currency or original is there, but is not what QFPay documents; such a row proves nothing.
    """

    syssn: str
    orig_syssn: str | None
    out_trade_no: str | None
    order_type: str | None
    amount: int | None
    currency: str | None
    code: str | None
    message: str | None
    cancel: str | None
    system_time: datetime | None
    raw: Mapping[str, Any] = field(factory=dict, repr=False)
    unreadable: bool = False


@frozen
class Balance:
    """The books of one authorization, in int minor units of `currency`; `capturable` is never below zero."""

    authorized: int
    captured: int
    held: int
    in_doubt: int
    foreign: int
    unfrozen: int
    refunded: int
    capturable: int
    currency: str


@frozen
class Doubt:
    """One entry whose outcome is not known; `syssn` is the one the caller gave, `authorization` the hold's.

    `tried` says how it was sent, `seen` what came back or was found since, `advice` the next safe step;
    `needs_attention` is True where evidence that was found cannot end it by rule: a person has to look.
    """

    idempotency_key: str
    operation: Operation
    syssn: str
    amount: int
    currency: str
    since: datetime
    tried: str
    advice: str
    authorization: str
    age_s: float
    seen: str
    needs_attention: bool


@frozen
class Expiring:
    """A hold whose capture window ends soon while money on it is uncaptured or in doubt; amounts in minor units."""

    syssn: str
    expires_at: datetime
    authorized: int
    capturable: int
    unresolved: int
    currency: str


# ------------------------------------------------------------------------------------------------ evidence


@frozen
class Notification:
    """A notification that QFPay signed; `kind` is its `notify_type`, `raw` its fields without card data.

    `code` is the transaction's ("0000": it succeeded); whatever a notification does not say is None.
    """

    kind: str
    syssn: str | None
    orig_syssn: str | None
    out_trade_no: str | None
    amount: int | None
    currency: str | None
    code: str | None
    raw: Mapping[str, Any] = field(factory=dict, repr=False)
    orig_out_trade_no: str | None = None
    system_time: datetime | None = None
    digest: str = ""


class DiscrepancyKind(enum.StrEnum):
    """In what our books and the gateway's differ."""

    MISSING_HERE = "missing_here"
    MISSING_THERE = "missing_there"
    AMOUNT_DIFFERS = "amount_differs"
    MISMATCH = "mismatch"
    EXECUTED_THOUGH_ENDED = "executed_though_ended"
    REFUSED_THOUGH_EXECUTED = "refused_though_executed"
    UNFROZEN_ELSEWHERE = "unfrozen_elsewhere"
    OVER_HOLD = "over_hold"


@frozen
class Discrepancy:
    """One difference; `syssn` is the gateway's transaction, `ours` and `theirs` what each side says."""

    kind: DiscrepancyKind
    authorization: str | None
    syssn: str | None
    idempotency_key: str | None
    ours: str
    theirs: str


@frozen
class Listing:
    """What the gateway showed of `since` and later, when it was last read at `read_at`.

    `stable`: every page of every month was read, and reading again gave the same and what was new. `whole`: no ids
    and no earlier end narrowed it. Only a listing that is both can show that something is absent, or that exactly one
    row fits.
    """

    rows: tuple[Transaction, ...]
    since: datetime
    read_at: datetime
    stable: bool
    whole: bool

    @property
    def complete(self) -> bool:
        """Whether it shows everything there was to see."""
        return self.stable and self.whole


@frozen
class Policy:
    """What the merchant allows absence to prove, and the window of holds that state none."""

    quiet_period: timedelta | None = None
    default_window: timedelta | None = None


@frozen
class Observed:
    """What a listing or a notification did to the books.

    `waiting`: it showed something that can only be recorded once a doubt has ended, so it must be read again.
    `strangers`: how many open notices it showed to be about holds that nobody registered here; they are closed.
    """

    ended: tuple[Entry, ...] = ()
    discrepancies: tuple[Discrepancy, ...] = ()
    foreign: tuple[Movement, ...] = ()
    fresh: bool = True
    explained: bool = True
    waiting: bool = False
    strangers: int = 0


@frozen
class ReconcileReport:
    """One pass of reconciliation.

    Attributes:
        ended: the entries whose doubt ended.
        discrepancies: every difference between the gateway's books and ours that this pass saw.
        foreign: movements made elsewhere (for example in the merchant portal) that are now in our books.
        confirmed: how many executed entries the gateway's list showed as we have them.
        in_doubt: how many entries are still in doubt; `needs_attention` of them need a person.
        unexplained_notices: how many notifications fit nothing so far. One about a hold that was never registered here
            is counted by the pass that finds that out, and then closed; other sales of the merchant are not counted.
        complete: False where the gateway could not be read as a whole; then absence proves nothing.
    """

    ended: tuple[Entry, ...]
    discrepancies: tuple[Discrepancy, ...]
    foreign: tuple[Movement, ...]
    confirmed: int
    in_doubt: int
    needs_attention: int
    unexplained_notices: int
    complete: bool
