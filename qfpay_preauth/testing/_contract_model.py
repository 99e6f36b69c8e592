"""A random walk over all verbs, beside a simple model of dictionaries: the same outcome and balance at every step."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from qfpay_preauth._models import Judgement, Operation
from qfpay_preauth.errors import PreauthError

from ._ledger_kit import Cases, Scene, case

HOLDS = {"H-0": 1_000, "H-1": 300, "H-2": 50}
AMOUNTS = (10, 20, 50, 100, 300)
NO_MORE = ("executed", "final")
OPEN = ("held", "in_doubt")


class Model:
    """What the ledger should do, said in the shortest way; it shares no code with it."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}

    def of(self, hold: str, *operations: str, states: tuple[str, ...]) -> list[dict[str, Any]]:
        """The entries of a hold, or of the captures on it, in these states."""
        return [
            each
            for each in self.entries.values()
            if each["hold"] == hold and each["operation"] in operations and each["state"] in states
        ]

    def sum(self, hold: str, *operations: str, states: tuple[str, ...]) -> int:
        """What those entries add up to."""
        return sum(int(each["amount"]) for each in self.of(hold, *operations, states=states))

    def left(self, hold: str) -> int:
        """What a capture could take or an unfreeze release."""
        return HOLDS[hold] - self.sum(hold, "capture", "unfreeze", states=(*OPEN, "executed"))

    def reserve(self, key: str, operation: str, syssn: str, amount: int | None) -> str:
        """'fresh', 'replay' or the name of the error."""
        known = self.entries.get(key)
        if known is not None:
            if (known["operation"], known["syssn"]) != (operation, syssn) or amount not in (None, known["amount"]):
                return "IdempotencyConflictError"
            if known["state"] == "held":
                return "OperationInProgressError"
            if known["state"] in ("in_doubt", *NO_MORE):
                return "replay"
        hold = syssn if operation != "refund" else self._hold_of(syssn)
        refusal = self._refusal(operation, hold, syssn, amount)
        if refusal is None and hold is not None:
            taken = self.left(hold) if amount is None else amount
            attempt = known["attempt"] + 1 if known else 1
            self.entries[key] = {
                "operation": operation, "syssn": syssn, "hold": hold, "amount": taken,
                "state": "held", "attempt": attempt, "result": None,
            }  # fmt: skip
        return refusal or "fresh"

    def _hold_of(self, capture: str) -> str | None:
        found = [e["hold"] for e in self.entries.values() if e["result"] == capture and e["operation"] == "capture"]
        return found[0] if found else None

    def _refusal(self, operation: str, hold: str | None, syssn: str, amount: int | None) -> str | None:
        if operation == "refund":
            return "UnknownCaptureError" if hold is None else self._refund_refusal(syssn, amount or 0)
        if hold not in HOLDS:
            return "UnknownAuthorizationError"
        if self.of(hold, "unfreeze", states=("executed",)):
            return "AlreadyUnfrozenError"
        if self.of(hold, "unfreeze", states=OPEN):
            return "AlreadyUnfrozenError" if operation == "unfreeze" else "AuthorizationClosedError"
        return (self._unfreeze_refusal if operation == "unfreeze" else self._capture_refusal)(hold, amount)

    def _capture_refusal(self, hold: str, amount: int | None) -> str | None:
        if (amount or 0) > self.left(hold):
            return "OverCaptureError"
        twins = [each for each in self.of(hold, "capture", states=OPEN) if each["amount"] == amount]
        return "OperationInProgressError" if twins else None

    def _unfreeze_refusal(self, hold: str, amount: int | None) -> str | None:
        if self.of(hold, "capture", states=OPEN):
            return "OperationInProgressError"
        if self.left(hold) == 0:
            return "AuthorizationClosedError"
        return None if amount in (None, self.left(hold)) else "OverCaptureError"

    def _refund_refusal(self, capture: str, amount: int) -> str | None:
        (whole,) = [each["amount"] for each in self.entries.values() if each["result"] == capture]
        refunds = [e["amount"] for e in self.entries.values() if e["syssn"] == capture and e["state"] not in _ENDED_NO]
        return "OverRefundError" if amount > whole - sum(refunds) else None

    def conclude(self, key: str, judgement: Judgement, result: str, *, rerunnable: bool) -> None:
        """Ended entries never change."""
        entry = self.entries[key]
        if entry["state"] not in OPEN:
            return
        no = "again" if rerunnable else "final"
        after = {Judgement.EXECUTED: "executed", Judgement.IN_DOUBT: "in_doubt"}
        entry["state"] = after.get(judgement, no)
        if judgement is Judgement.EXECUTED:
            entry["result"] = result


_ENDED_NO = ("again", "final")


class ModelCases(Cases):
    """The random walk."""

    model_seed: ClassVar[int] = 20_260_304
    model_steps: ClassVar[int] = 500

    @case
    async def test_random_walk_equals_the_model(self, s: Scene) -> None:
        """Random verbs, ends, replays and contradictions: outcomes and balances equal the model's at each step."""
        dice, model = random.Random(self.model_seed), Model()
        for hold, amount in HOLDS.items():
            await s.hold(amount, hold)
        for step in range(self.model_steps):
            where = f"seed {self.model_seed}, step {step}"
            if model.entries and dice.random() < 0.5:
                await _conclude(s, model, dice, f"R-{step}")
            else:
                await _reserve(s, model, dice, where)
            for hold in HOLDS:
                await _compare(s, model, hold, where)
        for hold in HOLDS:
            await s.check_fold(model.entries, hold)
        assert any(entry["attempt"] > 1 for entry in model.entries.values())


async def _reserve(s: Scene, model: Model, dice: random.Random, where: str) -> None:
    operation = dice.choices([*Operation], weights=(6, 1, 3))[0]
    captures = [e["result"] for e in model.entries.values() if e["operation"] == "capture" and e["result"]]
    targets = [*captures, "H-0"] if operation is Operation.REFUND else [*HOLDS, "NOBODY", *captures[:1]]
    key, syssn = f"{operation}-{dice.randrange(40)}", dice.choice(targets)
    known = model.entries.get(key)
    amount: int | None = dice.choice(AMOUNTS)
    if operation is Operation.UNFREEZE and dice.random() < 0.7:
        amount = None
    if known is not None and dice.random() < 0.7:
        syssn, amount = known["syssn"], known["amount"]
    expected = model.reserve(key, operation.value, syssn, amount)
    try:
        reserved = await s.ledger.reserve(s.request(key, operation, amount, syssn))
        outcome = "fresh" if reserved.fresh else "replay"
        assert reserved.entry.amount == model.entries[key]["amount"], where
        assert reserved.entry.attempt == model.entries[key]["attempt"], where
    except PreauthError as error:
        outcome = type(error).__name__
    assert outcome == expected, where


async def _conclude(s: Scene, model: Model, dice: random.Random, result: str) -> None:
    # mostly entries that are under way, now and then one that has ended: its verdict must change nothing
    open_keys = [key for key, entry in model.entries.items() if entry["state"] in OPEN]
    key = dice.choice(open_keys if open_keys and dice.random() < 0.9 else list(model.entries))
    judgement = dice.choices([*Judgement], weights=[3 if each is Judgement.EXECUTED else 2 for each in Judgement])[0]
    rerunnable = judgement is Judgement.NOT_SENT or (judgement is Judgement.DECLINED and dice.random() < 0.5)
    named = result if judgement is Judgement.EXECUTED else None
    await s.end(await s.entry(key), judgement, named, rerunnable=rerunnable)
    model.conclude(key, judgement, result, rerunnable=rerunnable)


async def _compare(s: Scene, model: Model, hold: str, where: str) -> None:
    balance = await s.balance(hold)
    done = ("executed",)
    closed = bool(model.of(hold, "unfreeze", states=(*OPEN, "executed")))
    assert balance.captured == model.sum(hold, "capture", states=done), where
    assert balance.unfrozen == model.sum(hold, "unfreeze", states=done), where
    assert balance.refunded == model.sum(hold, "refund", states=done), where
    assert balance.held == model.sum(hold, "capture", "unfreeze", states=("held",)), where
    assert balance.in_doubt == model.sum(hold, "capture", "unfreeze", states=("in_doubt",)), where
    assert balance.capturable == (0 if closed else model.left(hold)), where
