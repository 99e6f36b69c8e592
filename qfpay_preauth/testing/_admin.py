"""The simulator's own endpoints under ``/_sim/``: holds, books and faults for clients in any language."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import attrs

from ._core import Core
from ._faults import Rule
from ._plan import Plan
from ._portal import act
from ._protocol import parse_form
from ._records import Movement


def administer(core: Core, method: str, path: str, body: bytes, now: datetime) -> Plan:
    """Answer an admin request; 404 for an unknown one, 400 with the reason for a wrong one."""
    found = _ACTS.get((method, path))
    if found is None:
        return Plan(answer=core.encode({"error": f"no {method} {path}"}, 404))
    try:
        return Plan(answer=core.encode(found(core, _fields(body), now)))
    except Exception as error:
        return Plan(answer=core.encode({"error": f"{type(error).__name__}: {error}"}, 400))


def _fields(body: bytes) -> dict[str, Any]:
    """JSON or a form, so that plain curl will do."""
    if not body.lstrip().startswith(b"{"):
        return dict(parse_form(body))
    fields = json.loads(body)
    return dict(fields)


def _hold(core: Core, fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    currency = str(fields.get("currency", "HKD"))
    hold = core.books.hold(int(fields["amount"]), currency, now, fields.get("out_trade_no"))
    return {"syssn": hold.syssn, "out_trade_no": hold.out_trade_no}


def _books(core: Core, fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    books = core.books
    holds = [
        {
            "syssn": hold.syssn,
            "currency": hold.currency,
            "out_trade_no": hold.out_trade_no,
            "expires_at": hold.expires_at.isoformat(),
            **attrs.asdict(books.totals(hold.syssn)),
            "movements": [_movement(each) for each in books.of_hold(hold.syssn)],
        }
        for hold in books.holds.values()
    ]
    notices = [
        {"syssn": each.syssn, "attempt": each.attempt, "status": each.status, "fault": each.fault}
        for each in core.courier.deliveries
    ]
    return {"holds": holds, "audit": books.audit(), "hits": dict(core.faults.hits), "notifications": notices}


def _movement(movement: Movement) -> dict[str, Any]:
    moment = movement.at.isoformat() if movement.at else None
    return {**attrs.asdict(movement), "at": moment, "accepted_at": movement.accepted_at.isoformat()}


def _add_fault(core: Core, fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    rule = core.faults.add(Rule(**fields))
    return {"added": rule.kind}


def _clear_faults(core: Core, fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    core.faults.clear()
    return {"cleared": True}


def _settle(core: Core, fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    return {"pending": core.flush("pending", now), "late": core.flush("late", now)}


def _portal(core: Core, fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    amount = int(fields["amount"]) if "amount" in fields else None
    movement = act(core.books, fields["action"], fields["syssn"], amount, now)
    return {"syssn": movement.syssn, "amount": movement.amount}


def _notify_url(core: Core, fields: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    core.config.notify_url = fields["url"] or None
    return {"notify_url": core.config.notify_url}


_ACTS: Mapping[tuple[str, str], Callable[[Core, Mapping[str, Any], datetime], dict[str, Any]]] = {
    ("POST", "/_sim/hold"): _hold,
    ("GET", "/_sim/books"): _books,
    ("POST", "/_sim/faults"): _add_fault,
    ("DELETE", "/_sim/faults"): _clear_faults,
    ("POST", "/_sim/settle"): _settle,
    ("POST", "/_sim/portal"): _portal,
    ("POST", "/_sim/notify_url"): _notify_url,
}
