"""What a simulated merchant account is like: its credentials, and how the gateway treats it.

Where QFPay's documentation is silent (what an over-capture is answered, which word a capture's row carries)
the value is a setting, so that a client can be tried against every reading.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import timedelta, timezone
from types import MappingProxyType

import attrs

#: The gateway's clock and calendar ("sysdtm and paydtm are UTC+8").
GATEWAY_ZONE = timezone(timedelta(hours=8), "UTC+8")

#: Why a request is refused -> the ``respcd`` it is answered with (QFPay: "Transaction status codes").
#: Only ``format``, ``parameter`` and ``signature`` are documented for these cases; the rest are plausible.
REFUSAL_CODES: Mapping[str, str] = MappingProxyType(
    {
        "format": "1103",
        "parameter": "1104",
        "app_code": "1106",
        "mchid": "1107",
        "signature": "1108",
        "hold_unknown": "1268",
        "hold_closed": "1264",
        "hold_expired": "1181",
        "over_capture": "1266",
        "already_unfrozen": "1264",
        "unfreeze_amount": "1266",
        "mismatch": "1267",
        "number_used": "1251",
        "capture_unknown": "1268",
        "capture_unpaid": "1261",
        "over_refund": "1272",
        "partial_same_day": "1270",
        "refund_too_soon": "1269",
    }
)

#: Which ``order_type`` a query row carries. ``hold`` and ``refund`` are documented; the other two are not,
#: and borrow the words of the notifications.
ORDER_TYPES: Mapping[str, str | None] = MappingProxyType(
    {"hold": "payment", "capture": "payment", "unfreeze": "unfreeze", "refund": "refund"}
)

#: Which ``notify_type`` a notification carries; that the freeze sends one at all is not documented.
NOTIFY_TYPES: Mapping[str, str] = MappingProxyType(
    {"hold": "payment", "capture": "payment", "unfreeze": "unfreeze", "refund": "refund"}
)

#: How long after each delivery that was not acknowledged the next one comes (QFPay: "Asynchronous notifications").
REDELIVERY: tuple[timedelta, ...] = tuple(timedelta(minutes=each) for each in (2, 10, 10, 60, 120, 360, 900))


def linked(setting: bool | Collection[str], kind: str) -> bool:
    """Whether a movement names its original: a refund always, the others by a setting for all or by kind."""
    return kind == "refund" or (setting if isinstance(setting, bool) else kind in setting)


@attrs.define(kw_only=True)
class Config:
    """Settings of the simulator; every one may be changed while it runs.

    Credentials (QFPay: "Request description"):
        app_code, client_key: ``str``. other_keys: further keys accepted during a rotation.
        mchid: ``str`` if one is assigned (then it must be sent) or ``None`` (then it must not).
        sign_types: accepted ``X-QF-SIGNTYPE`` values. sign_answers: put ``X-QF-SIGN`` on answers.
    Money rules ("Pre-authorization"):
        capture_window: ``timedelta`` after which a hold expires. enforce: ``False`` lets every over-capture,
        second unfreeze and over-refund through, so that an audit sees what the client let slip.
        partial_unfreeze: accept less than the uncaptured rest (the hold is closed all the same).
        capture_number: ``"echo"``, ``"ignore"`` or ``"refuse"`` an ``out_trade_no`` on a capture.
        unique_numbers: a second write with a used ``out_trade_no`` is refused.
        same_day_full_refund: a refund on the capture's own day must be for all of it.
        refund_gap: ``timedelta`` that must lie between two refunds of one hold.
        codes: refusal reason -> ``respcd`` (see ``REFUSAL_CODES``).
    Enquiry ("Transaction enquiry"):
        query_lag: ``timedelta`` a new row stays invisible. ids_override_window: ids are looked up outside the
        window too. order_types: kind -> word (``None``: no such field). link_rows: ``origssn`` on capture and
        unfreeze rows: both, neither, or the kinds that have it. shown_numbers: kind -> which ``out_trade_no``
        rows and notifications carry: its ``"own"`` (the default), the ``"hold"``'s, or ``"none"``.
        newest_first: order of rows. pay_type: the rows' ``pay_type``.
    Notifications ("Asynchronous notifications"):
        notify_url: where executed movements are POSTed, ``None`` for nowhere (what happens meanwhile is never
        notified). notify_freeze: holds too. notify_types: kind -> word. link_notices: ``orig_syssn`` for captures
        and unfreezes, as in link_rows. notify_delay: ``timedelta`` from the execution to the first delivery.
        redelivery: the pauses between deliveries. notify_timeout_s: seconds that an answer may take.
    Limits ("Rate limit"):
        rate_limit: answer 429 above per_second or per_minute (sliding windows), off by default.
    Wire:
        keepalive_s: seconds an idle connection is kept, ``None`` for ever. body_bytes_max: larger requests
        get 413. record: keep every request in ``requests``. admin: serve ``/_sim/…``.
        syssn_start: the first counter.
    """

    app_code: str = "SIMULATED_APP_CODE"
    client_key: str = "SIMULATED_CLIENT_KEY"
    other_keys: tuple[str, ...] = ()
    mchid: str | None = None
    sign_types: frozenset[str] = frozenset({"MD5", "SHA256"})
    sign_answers: bool = False

    capture_window: timedelta = timedelta(days=7)
    enforce: bool = True
    partial_unfreeze: bool = False
    capture_number: str = "echo"
    unique_numbers: bool = True
    same_day_full_refund: bool = False
    refund_gap: timedelta = timedelta(0)
    codes: dict[str, str] = attrs.field(factory=lambda: dict(REFUSAL_CODES))

    query_lag: timedelta = timedelta(0)
    ids_override_window: bool = False
    order_types: dict[str, str | None] = attrs.field(factory=lambda: dict(ORDER_TYPES))
    link_rows: bool | Collection[str] = True
    shown_numbers: dict[str, str] = attrs.field(factory=dict)
    newest_first: bool = True
    pay_type: str = "802801"

    notify_url: str | None = None
    notify_freeze: bool = False
    notify_types: dict[str, str] = attrs.field(factory=lambda: dict(NOTIFY_TYPES))
    link_notices: bool | Collection[str] = True
    notify_delay: timedelta = timedelta(0)
    redelivery: tuple[timedelta, ...] = REDELIVERY
    notify_timeout_s: float = 5.0

    rate_limit: bool = False
    per_second: int = 100
    per_minute: int = 400

    keepalive_s: float | None = None
    body_bytes_max: int = 1_048_576
    record: bool = True
    admin: bool = False
    syssn_start: int = 14_079
