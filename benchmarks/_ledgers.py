"""What the questions about ledgers share: opened ledgers, a capture's two steps through them, and no group commit."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

from attrs import field, frozen

from qfpay_preauth._models import Authorization, Entry, Judgement, Operation, Request, Verdict
from qfpay_preauth.ledger import Ledger, ledger_from

ENVIRONMENT = "sandbox"
HOLD_AMOUNT = 99_999_999_999
ANSWER = {
    "sysdtm": "2026-01-01 15:04:12",
    "paydtm": "2026-01-01 15:04:12",
    "txdtm": "2026-01-01 07:04:11",
    "respcd": "0000",
    "resperr": "交易成功",
    "respmsg": "Capture received",
    "udid": "qiantai2",
    "out_trade_no": "",
    "chnlsn": "",
    "cardcd": "",
}
_TIME = datetime(2026, 1, 1, 7, 4, 12, tzinfo=UTC)
_SEND_BY, _DOUBT_AT = timedelta(seconds=60), timedelta(seconds=90)
_keys = itertools.count()


@frozen
class Book:
    """An open ledger, and captures of one account in it."""

    ledger: Ledger
    account: str = field(factory=lambda: f"BENCH{next(_keys)}")

    async def hold(self, syssn: str) -> None:
        """Register a hold, large enough for everything."""
        at = datetime.now(UTC)
        await self.ledger.register(Authorization(self.account, syssn, HOLD_AMOUNT, "HKD", f"ORDER{syssn}", at))

    def wish(self, hold: str, amount: int = 1_000) -> Request:
        """A capture under a key of its own."""
        at = datetime.now(UTC)
        key = f"parcel-{next(_keys)}"
        return Request(self.account, key, Operation.CAPTURE, hold, amount, None, at, at + _SEND_BY, at + _DOUBT_AT)

    async def end(self, entry: Entry, judgement: Judgement = Judgement.EXECUTED) -> Entry:
        """Conclude an entry, by default with the answer that the stub gives to a capture."""
        return await self.ledger.conclude(entry, verdict_on(entry, judgement), datetime.now(UTC))

    async def pair(self, hold: str, amount: int = 1_000) -> None:
        """What a capture asks of its ledger: to reserve, and to conclude."""
        await self.end((await self.ledger.reserve(self.wish(hold, amount))).entry)


def verdict_on(entry: Entry, judgement: Judgement = Judgement.EXECUTED) -> Verdict:
    """Yes, with all the fields of an answer, or an answer that was lost."""
    if judgement is not Judgement.EXECUTED:
        return Verdict(judgement, detail="the answer was lost")
    syssn = f"20260101180500{next(_keys):012}"
    of_what = {"txcurrcd": entry.currency, "txamt": str(entry.amount), "syssn": syssn, "orig_syssn": entry.syssn}
    fields = {**ANSWER, **of_what}
    return Verdict(
        judgement, code="0000", message="Capture received / 交易成功", result_syssn=syssn, system_time=_TIME, raw=fields
    )


@asynccontextmanager
async def opened(source: str | Ledger) -> AsyncIterator[Book]:
    """A ledger from a URL, open as long as this."""
    ledger = ledger_from(source)
    await ledger.open(ENVIRONMENT)
    try:
        yield Book(ledger)
    finally:
        await ledger.close()


def sources(folder: Path, postgres: str | None) -> dict[str, str]:
    """Where a durable ledger can be, by its name."""
    found = {"sqlite": f"sqlite:///{folder / 'ledger.db'}"}
    return found if postgres is None else {**found, "postgresql": postgres}


@contextmanager
def one_transaction_per_step(name: str) -> Iterator[None]:
    """The same ledger, the same statements, without group commit: each job gets a BEGIN and a COMMIT of its own.

    The writer's bound on a batch is set to one job. So its thread (its connections, for PostgreSQL: up to four) goes on
    with the next job while the last one's caller wakes up, which is more than callers that take turns would get.
    """
    module: Any = import_module({"sqlite": "qfpay_preauth.ledger._writer", "postgresql": _POSTGRES_WRITER}[name])
    usual = module.BATCH_MAX
    module.BATCH_MAX = 1
    try:
        yield
    finally:
        module.BATCH_MAX = usual


_POSTGRES_WRITER = "qfpay_preauth.ledger._postgres_writer"
