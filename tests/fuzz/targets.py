"""What is fuzzed: each target has seeds (valid input) and a run that raises `Found`, or anything, if a rule breaks."""

from __future__ import annotations

import json
import sqlite3
import weakref
from abc import ABC, abstractmethod
from datetime import timedelta
from random import Random
from typing import Any, ClassVar

from qfpay_preauth._codes import CodeClass, classify
from qfpay_preauth._models import (
    Answer,
    Authorization,
    Entry,
    Judgement,
    Listing,
    Operation,
    Policy,
    Request,
    State,
    Verdict,
)
from qfpay_preauth._retry import retry_after_s
from qfpay_preauth._signing import Signer
from qfpay_preauth._wire import judge, own_reference, read_code, read_rows
from qfpay_preauth.errors import InvalidRequestError, InvalidSignatureError
from qfpay_preauth.ledger import _observe, _verbs
from qfpay_preauth.ledger._sqlite_file import script
from qfpay_preauth.ledger._sqlite_rows import SqliteTransaction
from qfpay_preauth.notifications import verified
from tests.fuzz.mutate import PAN_TEXTS, mutated
from tests.fuzz.oracle import check_hidden, check_text, matches, need, plain, says, shown, told_of, unreadable
from tests.unit.kit import CLIENT_KEY, HOLD, NOW, OWN, TAKEN, entry_of, fields_for

ENTRIES = [entry_of(operation) for operation in Operation]
SIGNER = Signer(CLIENT_KEY)
LATER = NOW + timedelta(hours=1)
_NO = (CodeClass.REFUSED, CodeClass.NOT_NOW, CodeClass.DENIED)


class Target(ABC):
    """A case is bytes: a first byte that chooses (entry, status, signature), and the body."""

    name: ClassVar[str]

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Valid cases."""

    @abstractmethod
    def run(self, case: bytes) -> str:
        """Try a case, and say in a word what came of it (another word: worth keeping as a seed)."""

    def mutate(self, case: bytes, dice: Random, others: list[bytes]) -> bytes:
        """A case made of another."""
        choice = bytes([dice.randrange(256)]) if dice.random() < 0.2 else case[:1]
        return choice + mutated(case[1:], dice, [each[1:] for each in others])


class Judge(Target):
    """Answers to writes."""

    name = "judge"

    def seeds(self) -> list[bytes]:
        codes = ("0000", "1143", "1265", "1266", "1108", "9999")
        return [
            bytes([number]) + json.dumps(fields_for(entry, code)).encode()
            for number, entry in enumerate(ENTRIES)
            for code in codes
        ]

    def run(self, case: bytes) -> str:
        number, body = (case or b"\x00")[0], case[1:]
        entry, status = ENTRIES[number % 3], (200, 200, 200, 200, 500, 429, 302)[number // 3 % 7]
        right = number < 128
        signature = {} if number % 2 else {"X-QF-SIGN": SIGNER.sign_body(body) if right else "0" * 32}
        verdict = judge(entry, Answer(status, signature, body), [SIGNER])
        check_text(verdict.code, verdict.message, verdict.detail, verdict.result_syssn)
        check_hidden(body, shown(verdict), CLIENT_KEY)
        json.dumps(dict(verdict.raw or {})).encode()
        fields = plain(body) if status == 200 and (number % 2 or right) else None
        if verdict.judgement is Judgement.EXECUTED:
            self._executed(entry, fields, verdict)
        elif verdict.judgement is Judgement.DECLINED:
            need(fields is not None and matches(fields, entry, partly=True), "a no to another")
            need(classify(says((fields or {}).get("respcd"))) in _NO, "a no without a sure code")
        elif verdict.judgement is Judgement.NOT_SENT:
            need(status == 429, "not sent, and yet answered")
        return f"{verdict.judgement} {verdict.mismatch} {(verdict.detail or '')[:24]} {entry.operation}"

    def _executed(self, entry: Entry, fields: dict[str, Any] | None, verdict: Verdict) -> None:
        need(fields is not None, "executed by what is no answer")
        given = fields or {}
        need(given.get("respcd") == "0000", "executed without 0000")
        need(matches(given, entry, partly=False), "executed by another's answer")
        need(verdict.result_syssn == says(given.get("syssn")), "another syssn than was said")
        need(verdict.result_syssn not in ("", entry.syssn, entry.authorization), "a syssn that is not new")


class Books:
    """A ledger in SQLite's memory: a hold, a capture of it, and three doubts. Every case starts from the same."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect(":memory:", isolation_level=None)
        weakref.finalize(self, self._connection.close)
        self._connection.executescript(script("0001_initial"))
        self.tx = SqliteTransaction(self._connection)
        _verbs.register(self.tx, Authorization("M1", HOLD, 50_000, "HKD", "ORDER-17", NOW - timedelta(hours=1)))
        self._executed(self._reserved(Operation.CAPTURE, "taken", HOLD, 20_000), TAKEN)
        self.refund = self._lost(self._reserved(Operation.REFUND, "back", TAKEN, 500))
        self.capture = self._lost(self._reserved(Operation.CAPTURE, "lost", HOLD, 500))
        self._connection.execute("BEGIN")

    def _reserved(self, operation: Operation, key: str, syssn: str, amount: int) -> Entry:
        number = own_reference("M1", operation, key) if operation is Operation.REFUND else None
        times = (NOW, NOW + timedelta(minutes=1), NOW + timedelta(minutes=2))
        return _verbs.reserve(self.tx, Request("M1", key, operation, syssn, amount, number, *times)).entry

    def _executed(self, entry: Entry, syssn: str) -> None:
        _verbs.conclude(self.tx, entry, Verdict(Judgement.EXECUTED, result_syssn=syssn), NOW)
        for kind, word in (("capture", "payment"), ("unfreeze", "unfreeze")):
            self.tx.put_word("M1", kind, word, linked=True)

    def _lost(self, entry: Entry) -> Entry:
        return _verbs.conclude(self.tx, entry, Verdict(Judgement.IN_DOUBT, detail="lost"), NOW)

    def again(self) -> None:
        """As it was before the case."""
        self._connection.execute("ROLLBACK")
        self._connection.execute("BEGIN")

    def all_text(self) -> str:
        """Everything that was written down."""
        tables = ("entries", "movements", "events", "words", "discrepancies", "notices")
        return "\n".join(repr(self._connection.execute(f"SELECT * FROM {each}").fetchall()) for each in tables)


class Rows(Target):
    """Enquiries, read, weighed and applied to a ledger."""

    name = "rows"

    def __init__(self) -> None:
        self._books = Books()

    def seeds(self) -> list[bytes]:
        row = {
            "syssn": OWN, "origssn": HOLD, "txamt": "500", "txcurrcd": "HKD", "respcd": "0000", "order_type": "payment",
            "sysdtm": "2026-03-16 04:30:07", "out_trade_no": "", "cancel": "0", "errmsg": "ok", "cardcd": "",
        }  # fmt: skip
        back = {**row, "syssn": "R1", "origssn": TAKEN, "order_type": "refund"}
        back["out_trade_no"] = str(self._books.refund.out_trade_no)
        taken = {**row, "syssn": TAKEN, "txamt": "20000"}
        held = {**row, "syssn": HOLD, "origssn": "", "txamt": "50000"}
        portal = {**row, "syssn": "P1", "txamt": "700", "order_type": "unfreeze"}
        lists: tuple[list[dict[str, str]], ...] = (
            [row],
            [back],
            [taken, held],
            [row, back, portal],
            [portal, {**row, "respcd": "1143"}],
            [],
        )
        return [b"\x00" + json.dumps({"respcd": "0000", "resperr": "", "data": each}).encode() for each in lists]

    def run(self, case: bytes) -> str:
        body = case[1:]
        code, message, fields = read_code(Answer(200, {}, body))
        check_text(code, message)
        rows = read_rows(fields) if code == "0000" else None
        if rows is None:
            return f"unreadable {code is None}"
        for row in rows:
            texts = (row.orig_syssn, row.out_trade_no, row.order_type, row.currency, row.code, row.message, row.cancel)
            check_text(row.syssn, *texts)
        asked = [self._books.refund.idempotency_key, self._books.capture.idempotency_key]
        listing = Listing(tuple(rows), NOW - timedelta(minutes=10), LATER, stable=True, whole=True)
        try:
            seen = _observe.observe(self._books.tx, "M1", listing, Policy(timedelta(0)), asked)
            check_hidden(body, shown(seen) + repr(rows) + self._books.all_text(), CLIENT_KEY)
        finally:
            self._books.again()
        for entry in seen.ended:
            self._ended(entry, (plain(body) or {}).get("data") or [])
        ended = sorted(f"{entry.operation} {entry.state}" for entry in seen.ended)
        return f"{ended} {sorted({each.kind for each in seen.discrepancies})} {len(seen.foreign)}"

    def _ended(self, entry: Entry, rows: list[dict[str, Any]]) -> None:
        own = [each for each in rows if says(each.get("out_trade_no")) == (entry.out_trade_no or "-")]
        if entry.state is State.EXECUTED:
            mine = [each for each in rows if says(each.get("syssn")) == entry.result_syssn]
            good = [each for each in mine if says(each.get("respcd")) == "0000" and not unreadable(each)]
            need(any(told_of(each, entry, partly=each in own) for each in good), "another's row")
        else:
            need(bool(own), f"{entry.operation} ended as not executed by a row that is not linked")


class Notices(Target):
    """Notifications, rightly and wrongly signed, applied to a ledger."""

    name = "notices"

    def __init__(self) -> None:
        self._books = Books()

    def seeds(self) -> list[bytes]:
        told = {
            "status": "1", "sysdtm": "2026-03-16 04:30:07", "txcurrcd": "HKD", "txamt": "500", "syssn": OWN,
            "cancel": "0",
            "orig_syssn": HOLD, "respcd": "0000", "notify_type": "payment", "out_trade_no": "", "cardcd": "",
        }  # fmt: skip
        back = {**told, "orig_syssn": TAKEN, "notify_type": "refund", "orig_out_trade_no": "X"}
        back["out_trade_no"] = str(self._books.refund.out_trade_no)
        kinds = (told, back, {**told, "notify_type": "unfreeze"}, {**told, "syssn": HOLD}, {**told, "respcd": "1143"})
        return [bytes([number]) + json.dumps(each).encode() for each in kinds for number in (0, 1, 2)]

    def run(self, case: bytes) -> str:
        number, body = (case or b"\x00")[0], case[1:]
        right = SIGNER.sign_body(body)
        said: str | None = (right, right.lower(), right, right[:-1], "é" * 32, None, "", right + " ")[number % 8]
        genuine = said is not None and said.strip().upper() == right
        try:
            told = verified(body, {} if said is None else {"x-Qf-sIgn": said}, [Signer("previous"), SIGNER])
        except (InvalidSignatureError, InvalidRequestError) as error:
            need(isinstance(error, InvalidSignatureError) is not genuine, f"{type(error).__name__} of {said!r}")
            return type(error).__name__
        need(genuine, "a forged notification is accepted")
        check_text(told.kind, told.syssn, told.orig_syssn, told.out_trade_no, told.currency, told.code)
        try:
            seen = _observe.notice(self._books.tx, "M1", told, LATER)
            again = _observe.notice(self._books.tx, "M1", told, LATER)
            check_hidden(body, shown(told) + shown(seen) + self._books.all_text(), CLIENT_KEY)
        finally:
            self._books.again()
        need(seen.fresh and not again.fresh and not again.ended, "the same notice counts twice")
        for entry in seen.ended:
            fields = plain(body) or {}
            need(entry.state is State.EXECUTED, "a notification freed money")
            need(says(fields.get("respcd")) == "0000", "executed without 0000")
            need(told_of(fields, entry, partly=False), "ended by another's notice")
        return f"{len(seen.ended)} {seen.explained} {sorted(each.kind for each in seen.discrepancies)}"


class RetryAfter(Target):
    """The header of a 429."""

    name = "retry_after"

    def seeds(self) -> list[bytes]:
        texts = (
            "0",
            "7",
            "86400",
            "Sun, 15 Mar 2026 21:30:05 GMT",
            "Sun Mar 15 20:31:05 2026",
            "-1",
            "1e3",
            *PAN_TEXTS,
        )
        return [b"\x00" + text.encode() for text in texts]

    def run(self, case: bytes) -> str:
        text = case[1:].decode("utf-8", "surrogateescape" if case[:1] < b"\x80" else "replace")
        wait_s = retry_after_s(Answer(429, {"Retry-After": text}, b""), NOW)
        need(wait_s is None or 0.0 <= wait_s <= 86_400.0, f"a wait of {wait_s}")
        return "none" if wait_s is None else f"{wait_s > 0} {wait_s >= 86_400}"


TARGETS: dict[str, type[Target]] = {each.name: each for each in (Judge, Rows, Notices, RetryAfter)}
