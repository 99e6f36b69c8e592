"""Any order of verbs, evidence included, on each back-end: outcomes, balances and reports are those of the model."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from qfpay_preauth._models import (
    Authorization,
    Judgement,
    Listing,
    Notification,
    Operation,
    Policy,
    State,
    Transaction,
)
from qfpay_preauth.errors import PreauthError
from qfpay_preauth.ledger import After, Ledger
from qfpay_preauth.ledger.memory import MemoryLedger
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._contract_model import AMOUNTS, HOLDS, OPEN
from qfpay_preauth.testing._ledger_kit import Scene, moment
from tests.properties.model import WORD, EvidenceModel

T = TypeVar("T")
TAUGHT = "H-T"
NEW = [f"N-{number}" for number in range(8)]
KEYS = [f"{operation}-{number}" for operation in ("c", "c", "u", "r") for number in range(5)]
OPERATION = {"c": Operation.CAPTURE, "u": Operation.UNFREEZE, "r": Operation.REFUND}
keys, holds, amounts = st.sampled_from(KEYS), st.sampled_from(sorted(HOLDS)), st.sampled_from([*AMOUNTS, 7])
kinds = st.sampled_from(["capture", "capture", "unfreeze"])


class LedgerMachine(RuleBasedStateMachine):
    """One ledger and the model; `make` says which back-end."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.model = EvidenceModel()
        self.number = 0
        self.s = Scene(self.make())
        self.run(self.s.ledger.open("sandbox"))

    def make(self) -> Ledger:
        """A new ledger."""
        raise NotImplementedError

    def run(self, verb: Awaitable[T]) -> T:
        """Run one verb to its end."""
        return self.loop.run_until_complete(verb)

    def teardown(self) -> None:
        """Close what was opened."""
        self.run(self.s.ledger.close())
        self.loop.close()

    @initialize(adopted=st.booleans())
    def begin(self, adopted: bool) -> None:
        """The holds, one perhaps with a capture made elsewhere; and both words, shown by answered operations."""
        for hold, amount in HOLDS.items():
            self.run(self.s.hold(amount, hold))
        self.run(self._teach())
        if adopted:
            for _ in range(2):
                self.run(self._adopt())
            self.model.elsewhere["A-1"] = ("capture", "H-1", 30)

    async def _teach(self) -> None:
        await self.s.hold(100, TAUGHT)
        await self.s.executed((await self.s.capture("taught-c", 40, syssn=TAUGHT)).entry, "T-C")
        await self.s.executed((await self.s.unfreeze("taught-u", syssn=TAUGHT)).entry, "T-U")
        await self._show(_row("T-C", TAUGHT, 40, "payment"), _row("T-U", TAUGHT, 60, "unfreeze"))

    async def _adopt(self) -> None:
        hold = Authorization(self.s.account, "H-1", HOLDS["H-1"], "HKD", "ORDER-H-1", moment(0))
        found = await self.s.ledger.adopt(hold, [_row("A-1", "H-1", 30, "payment")], moment(1))
        assert found.foreign_captured == 30

    async def _show(self, *rows: Transaction) -> Any:
        listing = Listing(rows, moment(-3_600), moment(10), stable=True, whole=True)
        return await self.s.ledger.observe(self.s.account, listing, Policy(), ())

    def new(self) -> str:
        """A syssn that nobody has."""
        self.number += 1
        return f"R-{self.number}"

    # ------------------------------------------------------------------ rules

    @rule(key=keys, hold=holds, amount=amounts, whole=st.booleans(), same=st.booleans(), pick=st.integers(0, 50))
    def reserve(self, key: str, hold: str, amount: int, whole: bool, same: bool, pick: int) -> None:  # noqa: PLR0917
        """Reserve under a new or a used key, with what it had before or with something else."""
        operation, known = OPERATION[key[0]], self.model.entries.get(key)
        syssn, wanted = hold, None if operation is Operation.UNFREEZE and whole else amount
        captures = [e["result"] for e in self.model.entries.values() if e["operation"] == "capture" and e["result"]]
        if operation is Operation.REFUND and captures:
            syssn = captures[pick % len(captures)]
        if known is not None and same:
            syssn, wanted = known["syssn"], known["amount"]
        expected = self.model.reserve(key, operation.value, syssn, wanted)
        try:
            request = self.s.request(
                key, operation, wanted, syssn, out_trade_no=f"OWN-{key}" if key[0] == "r" else None
            )
            reserved = self.run(self.s.ledger.reserve(request))
            outcome = "fresh" if reserved.fresh else "replay"
            assert reserved.entry.amount == self.model.entries[key]["amount"]
        except PreauthError as error:
            outcome = type(error).__name__
        assert outcome == expected

    @precondition(lambda self: self.model.entries)
    @rule(pick=st.integers(0, 50), judgement=st.sampled_from(Judgement), named=st.booleans(), again=st.booleans())
    def conclude(self, pick: int, judgement: Judgement, named: bool, again: bool) -> None:
        """End an entry, or leave it in doubt with or without its syssn."""
        key = sorted(self.model.entries)[pick % len(self.model.entries)]
        pending = self.model.entries[key].get("pending")
        rerunnable = judgement is Judgement.NOT_SENT or (judgement is Judgement.DECLINED and again)
        result = (pending or self.new()) if judgement is Judgement.EXECUTED else None
        if judgement is Judgement.IN_DOUBT and named and key[0] != "r":
            result = pending or self.new()
        if judgement in (Judgement.DECLINED, Judgement.NOT_SENT) and pending:
            return  # what becomes of a remembered syssn whose entry ended is tested elsewhere
        before = self.run(self.s.entry(key))
        self.run(self.s.end(before, judgement, result, rerunnable=rerunnable))
        self.model.ends(key, judgement, result, rerunnable=rerunnable)

    @rule(syssn=st.sampled_from(NEW), kind=kinds, hold=holds, amount=amounts)
    def show_row(self, syssn: str, kind: str, hold: str, amount: int) -> None:
        """An enquiry shows a successful row that nothing links; the same syssn always tells the same."""
        told = self._told(syssn, kind, hold, amount)
        if told is None:
            return
        self.run(self._show(_row(syssn, told[1], told[2], WORD[told[0]])))
        self.model.shows(syssn, told)

    @rule(syssn=st.sampled_from(NEW), kind=kinds, hold=holds, amount=amounts)
    def notify(self, syssn: str, kind: str, hold: str, amount: int) -> None:
        """A notification, perhaps one that came before."""
        told = self._told(syssn, kind, hold, amount)
        if told is None:
            return
        notice = Notification(
            WORD[told[0]], syssn, told[1], None, told[2], "HKD", "0000", {}, None, moment(2), f"digest {syssn}"
        )
        seen = self.run(self.s.ledger.notice(self.s.account, notice, moment(10)))
        fresh, explained = self.model.notified(syssn, told)
        assert seen.fresh is fresh
        assert not fresh or seen.explained is explained

    def _told(self, syssn: str, kind: str, hold: str, amount: int) -> tuple[str, str, int] | None:
        """What a syssn is: fixed by the first who tells of it; None where the gateway would not do that."""
        known = self.said.setdefault(syssn, (kind, hold, amount))
        kind, hold, amount = known
        closed = self.model.made_elsewhere(hold, "unfreeze") and syssn not in self.model.elsewhere
        return None if closed else known

    @property
    def said(self) -> dict[str, tuple[str, str, int]]:
        """What each new syssn is."""
        found: dict[str, tuple[str, str, int]] = self.__dict__.setdefault("_said", {})
        return found

    @precondition(lambda self: any(e.get("pending") for e in self.model.entries.values()))
    @rule(pick=st.integers(0, 50), code=st.sampled_from(["0000", "1143", "1266"]))
    def show_linked(self, pick: int, code: str) -> None:
        """An enquiry shows the row of an entry by the syssn that its answer gave."""
        known = [key for key, entry in self.model.entries.items() if entry.get("pending")]
        key = known[pick % len(known)]
        entry = self.model.entries[key]
        row = _row(entry["pending"], entry["syssn"], entry["amount"], WORD[entry["operation"]], code)
        if entry["state"] == "in_doubt":
            self.run(self._show(row))
            if code == "0000":
                self.model.executes(key, entry["pending"])
            elif code == "1266":
                entry["state"] = "final"
                entry["pending"] = None

    @rule(at=st.integers(0, 1_000))
    def bookmark(self, at: int) -> None:
        """Bookmarks only move on, unless a hold is registered that is older."""
        self.run(self.s.ledger.bookmark(self.s.account, moment(at)))
        self.model.bookmark = at if self.model.bookmark is None else max(at, self.model.bookmark)
        assert self.run(self.s.ledger.span(self.s.account)) == moment(self.model.bookmark)

    @precondition(lambda self: self.model.bookmark is not None)
    @rule(at=st.integers(-100, 1_000), number=st.integers(0, 9))
    def register_late(self, at: int, number: int) -> None:
        """A hold that is registered late is read from its own time on."""
        syssn = f"LATE-{number}"
        assert self.model.bookmark is not None
        new = self.run(self.s.ledger.books(self.s.account, syssn)) is None
        if new:
            self.run(self.s.hold(50, syssn, authorized_at=moment(at)))
            self.model.bookmark = min(at, self.model.bookmark)
        assert self.run(self.s.ledger.span(self.s.account)) == moment(self.model.bookmark)

    @rule()
    def report(self) -> None:
        """Every discrepancy is reported once."""
        found = Counter((each.kind.value, str(each.syssn)) for each in self.run(self.s.ledger.report(self.s.account)))
        assert found == self.model.report()

    @rule()
    def sweep(self) -> None:
        """The notices that fit nothing so far."""
        left = {str(each.syssn) for each in self.run(self.s.ledger.sweep_notices(self.s.account))}
        assert left == set(self.model.open_notices)

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def balances(self) -> None:
        """Sums, foreign ones included, and what is capturable."""
        if not self.model.entries and not self.model.elsewhere:
            return
        for hold in HOLDS:
            sums = self.run(self.s.sums(hold))
            model = self.model
            assert sums.captured == model.sum(hold, "capture", states=("executed",))
            assert sums.unfrozen == model.sum(hold, "unfreeze", states=("executed",))
            assert sums.refunded == model.sum(hold, "refund", states=("executed",))
            assert sums.claimed == model.sum(hold, "capture", "unfreeze", states=OPEN)
            assert sums.foreign_captured == model.made_elsewhere(hold, "capture")
            assert sums.foreign_unfrozen == model.made_elsewhere(hold, "unfreeze")
            assert sums.capturable == model.left(hold)
            assert sums.flagged is (model.taken(hold) > HOLDS[hold]) or sums.flagged

    @invariant()
    def entries(self) -> None:
        """Every entry is where the model has it, and what is in doubt is listed, page by page."""
        for key, known in self.model.entries.items():
            entry = self.run(self.s.entry(key))
            state = {"final": State.NOT_EXECUTED, "again": State.NOT_EXECUTED}.get(known["state"]) or known["state"]
            assert (entry.state, entry.attempt) == (state, known["attempt"])
            assert known["state"] != "executed" or entry.result_syssn == known["result"]
        assert self.listed(10) == self.model.doubts()
        assert self.listed(100) == sorted(key for key, each in self.model.entries.items() if each["state"] in OPEN)

    def listed(self, at_s: float) -> list[str]:
        """What is in doubt at a moment, read two entries a page; long after its send-by a held entry is, too."""
        found: list[str] = []
        after: After | None = None
        while page := self.run(self.s.ledger.doubts(self.s.account, moment(at_s), after, 2)):
            found += [each.idempotency_key for each in page]
            after = After(page[-1].reserved_at, page[-1].idempotency_key)
        return found


def _row(syssn: str, orig: str, amount: int, word: str, code: str = "0000") -> Transaction:
    return Transaction(syssn, orig, None, word, amount, "HKD", code, None, "0", moment(2))


class MemoryMachine(LedgerMachine):
    """`memory://`."""

    def make(self) -> Ledger:
        """A new ledger."""
        return MemoryLedger()


class SqliteMachine(LedgerMachine):
    """`sqlite:///…`, closed and opened again now and then."""

    def make(self) -> Ledger:
        """A new ledger in a folder of its own."""
        self.folder = tempfile.TemporaryDirectory()
        return SqliteLedger(Path(self.folder.name) / "ledger.db")

    @rule()
    def reopen(self) -> None:
        """What was answered is there afterwards."""
        self.run(self.s.ledger.close())
        self.run(self.s.ledger.open("sandbox"))

    def teardown(self) -> None:
        """Close and remove it."""
        super().teardown()
        self.folder.cleanup()


_HOW: Any = {
    "phases": [Phase.generate],  # to see a short failing run, add Phase.shrink
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much],
}
TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=120, stateful_step_count=40, **_HOW)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(max_examples=30, stateful_step_count=30, **_HOW)
