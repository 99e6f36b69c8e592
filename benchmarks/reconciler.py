"""g) What it takes to end doubts: requests, and CPU, for each of 10,000 (short: 1,000).

The entries in doubt are written straight into a ledger in memory, each a capture on a hold of its own; the stub shows a
row for each, and `reconcile()` ends them. Numbered captures (`capture_reference`) are asked for by their numbers, 100
at a time; the others are found in the whole list of their time, by elimination.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
from attrs import evolve, frozen

from benchmarks._ledgers import Book, verdict_on
from benchmarks._measure import Figure, Plan, cost_of, spread_of
from benchmarks._scene import bare, client, run_on, stub
from qfpay_preauth._clock import GATEWAY_TZ
from qfpay_preauth._models import Entry, Judgement, Operation, Request
from qfpay_preauth._wire import own_reference
from qfpay_preauth.ledger.memory import MemoryLedger

TITLE = "The reconciler: what it takes to end a doubt"
DOUBTS, SHORT_DOUBTS = 10_000, 1_000
TIMES, SHORT_TIMES = 1, 3
POSTS = 640
AGO = timedelta(minutes=30)  # when the answers were lost


@frozen
class Cost:
    """For each doubt: enquiries, and CPU in bare POSTs."""

    requests: float
    cpu: float


def run(plan: Plan) -> list[Figure]:
    """Numbered captures and plain ones, a few times each on new books."""
    doubts, times = (SHORT_DOUBTS, SHORT_TIMES) if plan.short else (DOUBTS, TIMES)
    figures: list[Figure] = []
    with stub() as url:
        for numbered in (True, False):
            costs = [run_on("asyncio", _measure(url, doubts, numbered=numbered)) for _ in range(times)]
            which = f"{doubts:,} {'numbered' if numbered else 'plain'} captures"
            figures.append(_figure(f"{which}: enquiries for each", [cost.requests for cost in costs]))
            figures.append(_figure(f"{which}: CPU for each ÷ a bare POST's", [cost.cpu for cost in costs]))
    return figures


def _figure(what: str, values: list[float]) -> Figure:
    return Figure("reconciler", what, spread_of(values))


async def _measure(url: str, doubts: int, *, numbered: bool) -> Cost:
    ledger = MemoryLedger()
    async with client(url, ledger, capture_reference=numbered, quiet_period_s=None) as merchant:
        await merchant.reconcile()  # opens everything, with nothing to do
        rows = await _doubtful(Book(ledger, merchant.account), doubts, numbered=numbered)
        async with aiohttp.ClientSession() as session, bare(url, 1) as post:
            await session.post(f"{url}/rows", json=rows)
            await post(POSTS // 10)
            floor = await cost_of(post(POSTS))
            cost = await cost_of(_reconcile(merchant, doubts))
            async with session.get(f"{url}/enquiries") as response:
                asked = int(await response.text())
    return Cost(asked / doubts, cost.cpu / doubts / (floor.cpu / POSTS))


async def _reconcile(merchant: Any, doubts: int) -> None:
    report = await merchant.reconcile()
    assert (len(report.ended), report.in_doubt, report.discrepancies) == (doubts, 0, ()), report


async def _doubtful(book: Book, doubts: int, *, numbered: bool) -> list[dict[str, str]]:
    """So many captures in doubt, with the rows that prove them; and an answered capture and unfreeze, whose rows show
    which word is which."""
    began = datetime.now(UTC) - AGO
    rows = []
    for number in range(doubts + 2):
        hold = f"2026010118050002{number:010}"
        await book.hold(hold)
        at = began + timedelta(milliseconds=100 * number)
        request = evolve(book.wish(hold), at=at, send_by=at + timedelta(seconds=1), doubt_at=at + timedelta(seconds=2))
        if number == 1:
            request = evolve(request, operation=Operation.UNFREEZE, amount=None)
        elif numbered:
            request = evolve(request, out_trade_no=_number(request))
        entry = (await book.ledger.reserve(request)).entry
        ended = await book.end(entry, Judgement.EXECUTED if number < 2 else Judgement.IN_DOUBT)
        rows.append(_row(ended, at + timedelta(seconds=1)))
    return rows


def _number(request: Request) -> str:
    return own_reference(request.account, request.operation, request.idempotency_key)


def _row(entry: Entry, at: datetime) -> dict[str, str]:
    local = at.astimezone(GATEWAY_TZ).strftime("%Y-%m-%d %H:%M:%S")
    return {
        "syssn": entry.result_syssn or str(verdict_on(entry).result_syssn),
        "origssn": entry.syssn,
        "out_trade_no": entry.out_trade_no or "",
        "txamt": str(entry.amount),
        "txcurrcd": entry.currency,
        "respcd": "0000",
        "errmsg": "交易成功",
        "order_type": entry.operation.value,
        "pay_type": "802801",
        "txdtm": local,
        "sysdtm": local,
        "paydtm": local,
        "cancel": "0",
    }
