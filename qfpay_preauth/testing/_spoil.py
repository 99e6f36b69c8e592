"""Each kind of fault as a few lines: a request and its rule in, a ``Plan`` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

import attrs

from ._core import Call, plain, silent
from ._faults import Rule
from ._plan import Answer, Plan, Wire, changed
from ._protocol import WRITES
from ._records import PENDING


def spoil(call: Call, rule: Rule) -> Plan:
    """What becomes of a request that a rule strikes."""
    return _SPOILERS[rule.kind](call, rule)


def _right(call: Call) -> Answer:
    return call.core.encode(call.perform())


def _before(wire: Wire) -> Callable[[Call, Rule], Plan]:
    return lambda call, rule: silent(wire)


def _after(wire: Wire) -> Callable[[Call, Rule], Plan]:
    def spoiler(call: Call, rule: Rule) -> Plan:
        answer = _right(call)
        return Plan(wire=wire, answer=answer if wire is Wire.HANG else None)

    return spoiler


def _rate_limited(call: Call, rule: Rule) -> Plan:
    headers = () if rule.retry_after is None else (("Retry-After", rule.retry_after),)
    return Plan(answer=plain(429, "too many requests", *headers))


def _status_before(call: Call, rule: Rule) -> Plan:
    return Plan(answer=plain(rule.http_status, rule.text))


def _status_after(call: Call, rule: Rule) -> Plan:
    call.perform()
    return Plan(answer=plain(rule.http_status, rule.text))


def _respcd(call: Call, rule: Rule) -> Plan:
    reply = call.perform() if rule.executed else {"respmsg": ""}
    return Plan(answer=call.core.encode({**reply, "respcd": rule.code, "resperr": f"code {rule.code}"}))


def _pending(call: Call, rule: Rule) -> Plan:
    if call.operation not in WRITES:
        return Plan(answer=call.core.encode({"respcd": PENDING, "resperr": "waiting", "respmsg": ""}))
    reply = call.perform(pending=True)
    if call.moved is not None:
        syssn = call.moved.syssn

        def end(at: datetime) -> object:
            return call.core.books.settle(syssn, at, rule.then)

        call.core.schedule("pending", call.now, rule.seconds, end)
    return Plan(answer=call.core.encode(reply))


def _cut(call: Call, rule: Rule) -> Plan:
    answer = _right(call)
    keep = len(answer.body) // 2 if rule.keep is None else min(rule.keep, len(answer.body) - 1)
    return Plan(answer=answer, send_bytes=keep)


def _garbled(call: Call, rule: Rule) -> Plan:
    return Plan(answer=attrs.evolve(_right(call), body=rule.text.encode()))


def _huge(call: Call, rule: Rule) -> Plan:
    answer = _right(call)
    return Plan(answer=attrs.evolve(answer, body=answer.body.ljust(rule.padded_size)))


def _slow(call: Call, rule: Rule) -> Plan:
    return Plan(answer=_right(call), pieces=rule.pieces, pause_s=rule.seconds or 0.0)


def _redirect(call: Call, rule: Rule) -> Plan:
    return Plan(answer=plain(rule.http_status, "", ("Location", rule.location)))


def _swapped(call: Call, rule: Rule) -> Plan:
    core, mine = call.core, _right(call)
    if core.waiting_swap is None:
        core.waiting_swap = (core.ticket(), mine)
        return Plan(wire=Wire.SWAP, ticket=core.waiting_swap[0])
    ticket, theirs = core.waiting_swap
    core.waiting_swap = None
    return Plan(answer=theirs, hand_over=(ticket, mine))


def _altered(call: Call, rule: Rule) -> Plan:
    reply = call.perform()
    if rule.rows:
        reply["data"] = [changed(row, rule.changes) for row in reply.get("data", [])]
    else:
        reply = changed(reply, rule.changes)
    return Plan(answer=call.core.encode(reply))


def _missigned(call: Call, rule: Rule) -> Plan:
    answer = _right(call)
    headers = tuple(pair for pair in answer.headers if pair[0] != "X-QF-SIGN")
    return Plan(answer=attrs.evolve(answer, headers=(*headers, ("X-QF-SIGN", "0" * 32))))


def _later(call: Call, rule: Rule) -> None:
    call.core.schedule("late", call.now, rule.seconds, call.perform)


def _late(call: Call, rule: Rule) -> Plan:
    _later(call, rule)
    if rule.http_status == 0:
        return silent(Wire.CLOSE)
    return Plan(answer=plain(rule.http_status, rule.text))


def _late_hang(call: Call, rule: Rule) -> Plan:
    _later(call, rule)
    return silent(Wire.HANG)


def _delay(call: Call, rule: Rule) -> Plan:
    return Plan(answer=_right(call), delay_s=rule.seconds or 0.0)


def _hidden(call: Call, rule: Rule) -> Plan:
    return Plan(answer=_right(call))


def _shifted(call: Call, rule: Rule) -> Plan:
    answer = _right(call)
    for _ in range(rule.count):
        call.core.books.hold(1, "HKD", call.now)
    return Plan(answer=answer)


_SPOILERS: Mapping[str, Callable[[Call, Rule], Plan]] = {
    "drop_before": _before(Wire.CLOSE),
    "drop_after": _after(Wire.CLOSE),
    "reset_before": _before(Wire.RESET),
    "reset_after": _after(Wire.RESET),
    "hang_before": _before(Wire.HANG),
    "hang_after": _after(Wire.HANG),
    "rate_limited": _rate_limited,
    "status_before": _status_before,
    "status_after": _status_after,
    "respcd": _respcd,
    "pending": _pending,
    "cut": _cut,
    "garbled": _garbled,
    "huge": _huge,
    "slow": _slow,
    "redirect": _redirect,
    "swapped": _swapped,
    "altered": _altered,
    "missigned": _missigned,
    "late": _late,
    "late_hang": _late_hang,
    "delay": _delay,
    "hidden": _hidden,
    "shifted": _shifted,
}
