"""A busy account: rows come up between any two readings of its list, and doubts end all the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from qfpay_preauth import State
from qfpay_preauth._looks import _agree
from qfpay_preauth._models import Transaction
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import HOLD, Clock, check_equal, gateway_at, lose, queries, set_clock, state, teach_words
from tests.support import client_of, registered

MORE_THAN_A_PAGE = 120
MORNING = datetime(2026, 3, 10, 4, 5, 6, tzinfo=UTC)


async def test_a_doubt_ends_while_others_pay(qfpay_gateway: Gateway) -> None:
    """Somebody pays between any two pages: one pass ends the doubt, is complete, and moves its bookmark."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        _others_pay(qfpay_gateway)
        before = await client._ledger.span(client.account)
        qfpay_gateway.faults.add("shifted", operation="query", times=None)
        report = await client.reconcile()
        assert qfpay_gateway.faults.hits["shifted"] >= 8
        assert (await state(client), report.complete, report.in_doubt) == (State.EXECUTED, True, 0)
        after = await client._ledger.span(client.account)
        assert before is not None
        assert after is not None
        assert after > before
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_row_that_was_left_out_is_not_new() -> None:
    """Old rows that come up between two readings show that one of them left rows out: read again, and say so."""
    clock = Clock(MORNING)
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await teach_words(client, gateway)
        syssn = await registered(client, gateway, HOLD)
        await lose(client, gateway, syssn)
        _others_pay(gateway)
        clock.ahead = timedelta(minutes=5)
        before = queries(gateway)
        for after in (1, 4):  # the second page of the first and of the third reading for the doubt
            gateway.faults.add("altered", operation="query", after=after, changes={"data": []})
        report = await client.reconcile()
        assert gateway.faults.hits["altered"] == 2
        assert queries(gateway) - before > 8
        assert (await state(client), report.complete, report.in_doubt) == (State.IN_DOUBT, False, 1)
        report = await client.reconcile()
        assert (await state(client), report.complete, report.in_doubt) == (State.EXECUTED, True, 0)


def _row(syssn: str, minutes: float | None = 0, code: str = "0000") -> Transaction:
    moment = None if minutes is None else MORNING + timedelta(minutes=minutes)
    return Transaction(syssn, "hold", None, "payment", 999, "HKD", code, None, "0", moment)


@pytest.mark.parametrize(
    ("second", "agree"),
    [
        ([_row("a", -9), _row("b")], True),
        ([_row("b"), _row("a", -9)], True),
        ([_row("a", -9, "1143"), _row("b")], True),
        ([_row("a", -9), _row("b"), _row("c", 1)], True),
        ([_row("a", -9), _row("b"), _row("c", -0.9)], True),
        ([_row("a", -9), _row("b"), _row("c", -1.1)], False),
        ([_row("a", -9), _row("b"), _row("c", None)], False),
        ([_row("a", -9)], False),
        ([_row("a", -9), _row("c", 1)], False),
    ],
    ids=["same", "moved", "settled", "new", "clocks apart", "old", "no time", "gone", "changed for another"],
)
def test_what_makes_two_readings_agree(second: list[Transaction], agree: bool) -> None:
    """Nothing may be gone, and what is more must be new; what became of a row, and its place, tell nothing."""
    assert _agree(MORNING, [_row("a", -9), _row("b")], second) is agree


def _others_pay(gateway: Gateway) -> None:
    for _ in range(MORE_THAN_A_PAGE):
        gateway.hold(999)
