"""What the gateway's books are made of: holds, movements, intents, and the gateway's "no". Values only."""

from __future__ import annotations

from datetime import datetime

import attrs

DONE = "0000"
PENDING = "1143"


class Refusal(Exception):
    """The gateway's "no". ``reason`` is a key of ``Config.codes``; ``text`` says what was wrong."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason
        self.text = text


@attrs.frozen(kw_only=True)
class Hold:
    """A customer's held sum: ``amount`` in minor units, made ``at``, gone at ``expires_at``."""

    syssn: str
    amount: int
    currency: str
    out_trade_no: str
    at: datetime
    expires_at: datetime


@attrs.frozen(kw_only=True)
class Movement:
    """One accepted capture, unfreeze or refund.

    ``orig_syssn`` is the hold (capture, unfreeze) or the capture (refund); ``hold_syssn`` always the hold.
    ``code`` is ``0000`` (executed, ``at`` says when), ``1143`` (pending) or the code of a late refusal.
    ``portal`` marks what was done in the merchant portal and not through the API.
    """

    syssn: str
    kind: str
    orig_syssn: str
    hold_syssn: str
    amount: int
    currency: str
    out_trade_no: str
    txdtm: str
    accepted_at: datetime
    code: str
    at: datetime | None
    portal: bool

    @property
    def executed(self) -> bool:
        """Whether money moved."""
        return self.code == DONE


@attrs.frozen(kw_only=True)
class Totals:
    """One hold in minor units: what was executed so far, and what is pending."""

    authorized: int
    captured: int
    unfrozen: int
    refunded: int
    pending: int


@attrs.frozen(kw_only=True)
class Intent:
    """A payment intent which the customer has not yet confirmed in the browser."""

    token: str
    amount: int
    currency: str
    out_trade_no: str
    at: datetime
    expires_at: datetime


@attrs.frozen(kw_only=True)
class Write:
    """What a caller asks for; ``amount`` in minor units, ``currency`` ``None`` when not said."""

    syssn: str
    amount: int
    currency: str | None = None
    out_trade_no: str = ""
    txdtm: str = ""
    portal: bool = False
    pending: bool = False


#: What has a syssn, a row and a notification.
Record = Hold | Movement
