"""What must hold after every kill, read from the file with plain SQL and from the gateway's own books."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from attrs import frozen

from qfpay_preauth.testing import Gateway

Row = Mapping[str, Any]
Wish = tuple[str, str, int]
"""Operation, original and amount: in these tests no two keys have the same, unless one of them ended not executed."""

SENT_WITHIN = timedelta(seconds=3)
"""A worker's deadline, and what a request may wait on its way into a busy gateway."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNRESOLVED = ("held", "in_doubt")


@frozen
class File:
    """Everything in one ledger file, read at one moment."""

    damage: list[str]
    holds: list[Row]
    entries: list[Row]
    movements: list[Row]
    events: list[Row]


def read(path: Path) -> File:
    """The file as SQLite itself sees it, once it has recovered from whatever happened."""
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.row_factory = sqlite3.Row
        damage = [text for (text,) in connection.execute("PRAGMA integrity_check") if text != "ok"]
        damage += [f"foreign key: {tuple(row)}" for row in connection.execute("PRAGMA foreign_key_check")]
        connection.execute("BEGIN")
        tables = ("authorizations", "entries", "movements", "events")
        rows: list[list[Row]] = [
            [dict(row) for row in connection.execute(f"SELECT * FROM {table}")] for table in tables
        ]
        connection.execute("COMMIT")
    return File(damage, *rows)


def wish_of(entry: Row) -> Wish:
    """What an entry wants, as the gateway sees it."""
    return entry["operation"], entry["syssn"], entry["amount"]


def violations(path: Path, gateway: Gateway, said: Mapping[str, str]) -> list[str]:
    """Every broken rule in words. `said`: key → syssn, as a process reported a result before it was killed."""
    file = read(path)
    return [
        *file.damage,
        *gateway.books.audit(),
        *_sums(file),
        *_histories(file),
        *_requests(file, gateway),
        *_executions(file, gateway),
        *_claims_to_be_executed(file, gateway),
        *_said(file, said),
    ]


def _sums(file: File) -> Iterator[str]:
    """I1, I11: the sums are those of the entries, and never more than the hold or the capture."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in file.entries:
        refund = entry["operation"] == "refund"
        if entry["state"] in UNRESOLVED and not refund:
            found[entry["authorization"]]["claimed"] += entry["amount"]
        if entry["state"] == "executed":
            found[entry["authorization"]][_SUM_OF[entry["operation"]]] += entry["amount"]
    for hold in file.holds:
        sums = found[hold["syssn"]]
        for name in ("captured", "claimed", "unfrozen", "refunded"):
            if hold[name] != sums[name]:
                yield f"{hold['syssn']}: {name} is {hold[name]}, and its entries add up to {sums[name]}"
        taken = sums["captured"] + sums["claimed"] + sums["unfrozen"]
        if taken > hold["amount"] or hold["foreign_captured"] + hold["foreign_unfrozen"]:
            yield f"{hold['syssn']}: {taken} taken or claimed of {hold['amount']}, and elsewhere {dict(hold)}"
    for movement in file.movements:
        if movement["refunded"] + movement["refund_claimed"] > movement["amount"]:
            yield f"{movement['syssn']}: more refunded than captured"


_SUM_OF = {"capture": "captured", "unfreeze": "unfrozen", "refund": "refunded"}


def _histories(file: File) -> Iterator[str]:
    """I7, I8: every entry is where its history leads, step by step."""
    last: dict[str, str | None] = {}
    for event in sorted(file.events, key=lambda each: each["id"]):
        if event["to_state"] is None:
            continue
        key = event["idempotency_key"]
        if event["from_state"] != last.get(key):
            yield f"{key}: moved from {event['from_state']}, but it was {last.get(key)}"
        last[key] = event["to_state"]
    for entry in file.entries:
        if last.pop(entry["idempotency_key"], None) != entry["state"]:
            yield f"{entry['idempotency_key']}: {entry['state']}, which its history does not say"
    yield from (f"{key}: a history without an entry" for key in last)


def _requests(file: File, gateway: Gateway) -> Iterator[str]:
    """I3: every write that reached the gateway was committed before, under one key, and sent before its send-by."""
    held: dict[str, list[datetime]] = defaultdict(list)
    for event in file.events:
        if event["to_state"] == "held":
            held[event["idempotency_key"]].append(EPOCH + timedelta(microseconds=event["at"]))
    keys: dict[Wish, list[str]] = defaultdict(list)
    for entry in file.entries:
        keys[wish_of(entry)].append(entry["idempotency_key"])
    for request in gateway.requests:
        if request.operation not in _SUM_OF:
            continue
        wish = request.operation, request.params["syssn"], int(request.params["txamt"])
        moments = [moment for key in keys[wish] for moment in held[key]]
        if not any(moment <= request.at <= moment + SENT_WITHIN for moment in moments):
            yield f"{wish} reached the gateway at {request.at}, reserved at {[str(each) for each in moments]}"


def _executions(file: File, gateway: Gateway) -> Iterator[str]:
    """I4, I5: nothing was executed twice, or without an entry, or under an entry that ended not executed."""
    states: dict[Wish, list[str]] = defaultdict(list)
    for entry in file.entries:
        states[wish_of(entry)].append(entry["state"])
    for wish, times in Counter((e.kind, e.orig_syssn, e.amount) for e in gateway.books.movements.values()).items():
        if times > 1:
            yield f"{wish} was executed (or is pending) {times} times"
        if not set(states[wish]) - {"not_executed"}:
            yield f"{wish} was executed (or is pending), and its entries are {states[wish]}"


def _claims_to_be_executed(file: File, gateway: Gateway) -> Iterator[str]:
    """I6: what is executed here is executed there, under that syssn, and each syssn belongs to one entry."""
    for syssn, times in Counter(each["result_syssn"] for each in _executed(file)).items():
        if times > 1:
            yield f"{syssn} is the result of {times} entries"
    for entry in _executed(file):
        there = gateway.books.movements.get(entry["result_syssn"])
        if there is None or not there.executed or (there.kind, there.orig_syssn, there.amount) != wish_of(entry):
            yield f"{entry['idempotency_key']}: executed as {entry['result_syssn']}, and the gateway has {there}"


def _executed(file: File) -> Iterable[Row]:
    return [each for each in file.entries if each["state"] == "executed"]


def _said(file: File, said: Mapping[str, str]) -> Iterator[str]:
    """What a caller was told is durable."""
    results = {each["idempotency_key"]: each["result_syssn"] for each in _executed(file)}
    for key, syssn in said.items():
        if results.get(key) != syssn:
            yield f"{key}: its caller got {syssn}, and the ledger has {results.get(key)}"


@frozen
class Difference:
    """What the gateway executed and our books do not have as executed, and how many doubts are left.

    `unlisted` is not even in doubt here, which must not be; `executed` of the doubts may be what happened there.
    """

    unlisted: list[Wish]
    executed: int
    doubts: int


def difference(path: Path, gateway: Gateway) -> Difference:
    """Our books and the gateway's, once everything has ended that will end."""
    file = read(path)
    here = {each["result_syssn"] for each in _executed(file)}
    doubts = Counter(wish_of(each) for each in file.entries if each["state"] in UNRESOLVED)
    missing = Counter(
        (each.kind, each.orig_syssn, each.amount) for each in gateway.books.executions() if each.syssn not in here
    )
    return Difference(list(missing - doubts), (missing & doubts).total(), doubts.total())


def result_in(line: str) -> tuple[str, str] | None:
    """Key and syssn of a process's `got KEY SYSSN`."""
    found = re.fullmatch(r"got (\S+) (\S+)", line)
    return (found[1], found[2]) if found and found[2] != "None" else None
