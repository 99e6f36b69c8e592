"""What a ledger should say after any order of verbs, in dictionaries: the contract's model, and evidence on top."""

from __future__ import annotations

from collections import Counter
from typing import Any

from qfpay_preauth.testing._contract_model import HOLDS, OPEN, Model

WORD = {"capture": "payment", "unfreeze": "unfreeze"}


class EvidenceModel(Model):
    """Movements made elsewhere, notices, bookmarks and discrepancies. It shares no code with the ledger."""

    def __init__(self) -> None:
        super().__init__()
        self.elsewhere: dict[str, tuple[str, str, int]] = {}  # syssn → operation, hold, amount
        self.open_notices: dict[str, tuple[str, str, int]] = {}
        self.notices: set[str] = set()
        self.discrepancies: Counter[tuple[str, str]] = Counter()  # kind, syssn: not yet reported
        self.noted: set[tuple[str, str, str]] = set()
        self.bookmark: float | None = None

    # ------------------------------------------------------------------ sums

    def made_elsewhere(self, hold: str, *operations: str) -> int:
        """What was taken or released elsewhere."""
        return sum(amount for kind, where, amount in self.elsewhere.values() if where == hold and kind in operations)

    def taken(self, hold: str) -> int:
        """Everything that counts against the hold, elsewhere included."""
        return HOLDS[hold] - super().left(hold) + self.made_elsewhere(hold, "capture", "unfreeze")

    def left(self, hold: str) -> int:
        """What a capture could take: never below zero."""
        return max(0, HOLDS[hold] - self.taken(hold))

    def _refusal(self, operation: str, hold: str | None, syssn: str, amount: int | None) -> str | None:
        if operation != "refund" and hold in HOLDS and self.made_elsewhere(str(hold), "unfreeze"):
            return "AlreadyUnfrozenError"
        return super()._refusal(operation, hold, syssn, amount)

    # ------------------------------------------------------------------ ends

    def ends(self, key: str, judgement: Any, result: str | None, *, rerunnable: bool) -> None:
        """A verdict; one that leaves doubt meets the notices that came before it."""
        if self.entries[key]["state"] not in OPEN:
            self.contradicts(key, judgement, result)
            return
        self.conclude(key, judgement, str(result), rerunnable=rerunnable)
        entry = self.entries[key]
        if entry["state"] == "in_doubt":
            entry["pending"] = result or entry.get("pending")
            for syssn, told in list(self.open_notices.items()):
                if self.matches(key, syssn, told):
                    self.executes(key, syssn)
                    return

    def contradicts(self, key: str, judgement: Any, result: str | None) -> None:
        """What is said about an ended entry changes nothing, and is noted where it disagrees."""
        entry, said = self.entries[key], str(judgement)
        done = entry["state"] == "executed"
        if said == "executed" and not done:
            self.note("executed_though_ended", str(result), key)
        elif done and said not in ("in_doubt", "executed"):
            self.note("mismatch", str(result), f"{key} {said}")
        elif done and said == "executed" and result != entry["result"]:
            self.note("mismatch", str(result), key)

    def note(self, kind: str, syssn: str, about: str = "") -> None:
        """A discrepancy is noted once."""
        if (kind, syssn, about) not in self.noted:
            self.noted.add((kind, syssn, about))
            self.discrepancies[kind, syssn] += 1

    def matches(self, key: str, syssn: str, told: tuple[str, str, int]) -> bool:
        """Whether unlinked evidence can be meant for an entry: one that knows its syssn has no other."""
        entry = self.entries[key]
        same = (entry["operation"], entry["hold"], entry["amount"]) == told
        return entry["state"] == "in_doubt" and same and entry.get("pending") in (None, syssn)

    def executes(self, key: str, syssn: str) -> None:
        """Evidence ends an entry."""
        self.entries[key].update(state="executed", result=syssn)
        self.open_notices.pop(syssn, None)

    def shows(self, syssn: str, told: tuple[str, str, int]) -> None:
        """A successful row that nothing links: one entry's, or possibly one's that is under way, or made elsewhere."""
        if syssn in self.elsewhere or any(entry["result"] == syssn for entry in self.entries.values()):
            return
        meant = [key for key in self.entries if self.matches(key, syssn, told)]
        if meant:
            self.executes(meant[0], syssn)
        elif not self.under_way(told):
            self.records(syssn, told)

    def under_way(self, told: tuple[str, str, int]) -> bool:
        """Whether an entry that is held could still be what is told of."""
        return any(
            (each["operation"], each["hold"], each["amount"], each["state"]) == (*told, "held")
            for each in self.entries.values()
        )

    def records(self, syssn: str, told: tuple[str, str, int]) -> None:
        """A movement made elsewhere lowers what is capturable, and may exceed the hold."""
        self.elsewhere[syssn] = told
        kind, hold, _ = told
        self.open_notices.pop(syssn, None)
        ended = {"final", "again"}
        alike = any(
            (each["operation"], each["hold"], each["amount"]) == told and each["state"] in ended
            for each in self.entries.values()
        )
        self.note("executed_though_ended" if alike else "missing_here", syssn)
        if kind == "unfreeze":
            self.note("unfrozen_elsewhere", syssn)
        if self.taken(hold) > HOLDS[hold]:
            self.note("over_hold", syssn)

    def notified(self, syssn: str, told: tuple[str, str, int]) -> tuple[bool, bool]:
        """Whether a notice is fresh, and whether it is explained."""
        if syssn in self.notices:
            return False, True
        self.notices.add(syssn)
        if syssn in self.elsewhere or any(entry["result"] == syssn for entry in self.entries.values()):
            return True, True
        meant = [key for key in self.entries if self.matches(key, syssn, told)]
        if meant:
            self.executes(meant[0], syssn)
            return True, True
        self.open_notices[syssn] = told
        return True, False

    # ------------------------------------------------------------------ reads

    def doubts(self) -> list[str]:
        """The keys in doubt."""
        return sorted(key for key, entry in self.entries.items() if entry["state"] == "in_doubt")

    def report(self) -> Counter[tuple[str, str]]:
        """The discrepancies since the last report."""
        found, self.discrepancies = self.discrepancies, Counter()
        return found
