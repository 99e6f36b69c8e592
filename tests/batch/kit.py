"""What the batch tests share: rows, files of them, and the command as a user runs it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qfpay_preauth import BatchOutcome, BatchRow, Operation, PreauthClient, PreauthError
from qfpay_preauth.testing import Gateway
from tests.support import QUICK

HEADER = ("idempotency_key", "syssn", "amount")
WIDE = (*HEADER, "operation", "currency", "out_trade_no", "authorized_amount", "account")


async def ran(client: PreauthClient, rows: Iterable[Any] | AsyncIterable[Any], **how: Any) -> list[BatchOutcome]:
    """All outcomes of a batch, in the order they came."""
    return [outcome async for outcome in client.capture_many(rows, **how)]


async def broken(
    client: PreauthClient, rows: Iterable[Any] | AsyncIterable[Any], **how: Any
) -> tuple[list[BatchOutcome], PreauthError]:
    """The outcomes of a batch that stops, and the error that says why."""
    found: list[BatchOutcome] = []
    try:
        async for outcome in client.capture_many(rows, **how):
            found.append(outcome)
    except PreauthError as error:
        return found, error
    raise AssertionError("it went on to the end")


def holds_of(gateway: Gateway, count: int = 8) -> list[str]:
    """Holds of 5,000.00."""
    return [gateway.hold(500_000) for _ in range(count)]


def by_key(outcomes: Iterable[BatchOutcome]) -> dict[str, str]:
    """Key → outcome."""
    return {str(each.idempotency_key): each.outcome.value for each in outcomes}


def words(outcomes: Iterable[BatchOutcome]) -> Counter[str]:
    """How many of each outcome."""
    return Counter(each.outcome.value for each in outcomes)


def registering(gateway: Gateway, syssn: str, key: str, amount: int, **more: Any) -> BatchRow:
    """A row that brings its hold."""
    hold = gateway.books.holds[syssn]
    given = {"currency": hold.currency, "out_trade_no": hold.out_trade_no, "authorized_amount": hold.amount}
    return BatchRow(key, syssn, amount, **{**given, **more})


def captures(gateway: Gateway, holds: Sequence[str], count: int, name: str = "k") -> list[BatchRow]:
    """Captures of different amounts, spread over the holds, each bringing its hold."""
    return [registering(gateway, holds[i % len(holds)], f"{name}{i}", 1_000 + i) for i in range(count)]


def executed(gateway: Gateway) -> Counter[tuple[str, str, int]]:
    """(kind, original, amount) → how often the gateway executed it."""
    return Counter((each.kind, each.orig_syssn, each.amount) for each in gateway.books.executions())


def sent(gateway: Gateway, operation: str = "capture") -> int:
    """Requests for it that reached the gateway."""
    return sum(each.operation == operation for each in gateway.requests)


# ------------------------------------------------------------------------------------------------ files


def csv_of(path: Path, rows: Iterable[BatchRow], columns: Sequence[str] = WIDE) -> Path:
    """A CSV file of rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([_cell(getattr(row, name)) for name in columns] for row in rows)
    return path


def _cell(value: object) -> str:
    if isinstance(value, Operation):
        return value.value
    return "" if value is None else str(value)


def results_of(path: Path) -> list[dict[str, str]]:
    """The lines of a results file; each must be whole."""
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file, strict=True))
    assert all(None not in line and None not in line.values() for line in lines), "a torn line"
    return lines


def objects_of(text: str) -> list[dict[str, Any]]:
    """What a command said with --json."""
    return [json.loads(line) for line in text.splitlines()]


def variables(gateway: Gateway, folder: Path, **more: str) -> dict[str, str]:
    """The QFPAY_* variables of a quick client of the gateway, with its ledger in the folder."""
    settings = {f"QFPAY_{name.upper()}": str(value) for name, value in QUICK.items()}
    return {
        "QFPAY_APP_CODE": gateway.app_code,
        "QFPAY_CLIENT_KEY": gateway.client_key,
        "QFPAY_BASE_URL": gateway.url,
        "QFPAY_LEDGER": f"sqlite:///{folder / 'ledger.db'}",
        **settings,
        **more,
    }


def checked_against(gateway: Gateway, lines: Sequence[Mapping[str, str]]) -> list[str]:
    """Every way in which a results file and the gateway's books disagree, row by row; [] if they agree.

    An executed or replayed row is exactly one execution of its amount, with its syssn; a row that is not sent, refused,
    declined or invalid is none; one in doubt is at most one.
    """
    movements = {each.syssn: each for each in gateway.books.executions()}
    wrong, explained = [], set()
    for line in lines:
        if line["outcome"] not in ("executed", "replayed"):
            continue
        movement = movements.get(line["result_syssn"])
        if movement is None or (movement.kind, movement.orig_syssn, str(movement.amount)) != (
            line["operation"],
            line["syssn"],
            line["amount"],
        ):
            wrong.append(f"not in the gateway's books: {line}")
        elif movement.syssn in explained:
            wrong.append(f"twice in the results: {line}")
        explained.add(line["result_syssn"])
    left = Counter(
        (each.kind, each.orig_syssn, str(each.amount)) for s, each in movements.items() if s not in explained
    )
    doubts = [line for line in lines if line["outcome"] == "in_doubt"]
    for kind, syssn, amount in left.elements():
        # an unfreeze in doubt may name no amount
        fits = (each for each in doubts if (each["operation"], each["syssn"]) == (kind, syssn))
        found = next((each for each in fits if each["amount"] in (amount, "")), None)
        if found is None:
            wrong.append(f"executed, and in no line: {kind} {syssn} {amount}")
        else:
            doubts.remove(found)
    return wrong
