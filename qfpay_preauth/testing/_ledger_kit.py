"""What the ledger's conformance cases share: a scene with few words, and the fold of a history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qfpay_preauth._models import (
    Authorization,
    Balance,
    ConfirmedBy,
    Entry,
    Event,
    Judgement,
    Operation,
    Request,
    State,
    Verdict,
)
from qfpay_preauth.errors import PreauthError
from qfpay_preauth.ledger import Ledger, Reserved
from qfpay_preauth.ledger._rules import balance_of

E = TypeVar("E", bound=PreauthError)

START = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
SEND_BY_S = 60
DOUBT_AT_S = 90
HOLD = "HOLD-1"


class Scene:
    """A ledger under test, and a merchant's words for using it; times are seconds after START."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.account = "M-1"
        self._known: set[tuple[str, str, str]] = set()

    # ------------------------------------------------------------------ writing

    async def hold(self, amount: int = 1_000, syssn: str = HOLD, **changes: Any) -> Authorization:
        """Register a hold."""
        self._known |= {("hold", self.account, syssn), ("movement", self.account, syssn)}
        values: dict[str, Any] = {"currency": "HKD", "out_trade_no": f"ORDER-{syssn}", "registered_at": START}
        values |= changes
        return await self.ledger.register(Authorization(self.account, syssn, amount, **values))

    def request(
        self,
        key: str,
        operation: Operation = Operation.CAPTURE,
        amount: int | None = 100,
        syssn: str = HOLD,
        at_s: float = 0,
        **changes: Any,
    ) -> Request:
        """A request as the client would make it."""
        self._known |= {("key", self.account, key), ("hold", self.account, syssn), ("movement", self.account, syssn)}
        at = moment(at_s)
        values: dict[str, Any] = {
            "out_trade_no": f"REF-{len(key)}" if operation is Operation.REFUND else None,
            "at": at,
            "send_by": at + timedelta(seconds=SEND_BY_S),
            "doubt_at": at + timedelta(seconds=DOUBT_AT_S),
        }
        return Request(self.account, key, operation, syssn, amount, **{**values, **changes})

    async def capture(self, key: str, amount: int = 100, **more: Any) -> Reserved:
        """Reserve a capture."""
        return await self.ledger.reserve(self.request(key, Operation.CAPTURE, amount, **more))

    async def unfreeze(self, key: str, amount: int | None = None, **more: Any) -> Reserved:
        """Reserve the unfreeze."""
        return await self.ledger.reserve(self.request(key, Operation.UNFREEZE, amount, **more))

    async def refund(self, key: str, syssn: str, amount: int, **more: Any) -> Reserved:
        """Reserve a refund of the capture `syssn`."""
        return await self.ledger.reserve(self.request(key, Operation.REFUND, amount, syssn, **more))

    async def end(
        self, entry: Entry, judgement: Judgement, result: str | None = None, at_s: float = 1, **verdict: Any
    ) -> Entry:
        """Conclude `entry`."""
        if result is not None:
            self._known.add(("movement", self.account, result))
        given = Verdict(judgement, result_syssn=result, **verdict)
        return await self.ledger.conclude(entry, given, moment(at_s))

    async def decide(self, entry: Entry, judgement: Judgement, at_s: float, result: str | None = None) -> Entry:
        """Conclude `entry` by a person's decision."""
        return await self.end(entry, judgement, result, at_s, confirmed_by=ConfirmedBy.OPERATOR, reason="looked it up")

    async def captured(self, key: str, amount: int = 100, result: str | None = None) -> Entry:
        """A capture from reservation to execution, as `result` (default: CAP-key)."""
        return await self.executed((await self.capture(key, amount)).entry, result or f"CAP-{key}")

    async def executed(self, entry: Entry, result: str | None = None) -> Entry:
        """The answer was yes."""
        return await self.end(entry, Judgement.EXECUTED, result or f"{entry.operation}-{entry.idempotency_key}")

    async def doubted(self, entry: Entry, **more: Any) -> Entry:
        """The answer was lost."""
        return await self.end(entry, Judgement.IN_DOUBT, detail="the answer was lost", **more)

    async def not_sent(self, entry: Entry) -> Entry:
        """Nothing left this machine."""
        return await self.end(entry, Judgement.NOT_SENT, detail="connection refused", rerunnable=True)

    async def declined(self, entry: Entry, *, rerunnable: bool = False) -> Entry:
        """The answer was a sure no."""
        return await self.end(entry, Judgement.DECLINED, code="1265", message="no", rerunnable=rerunnable)

    # ------------------------------------------------------------------ reading

    async def entry(self, key: str) -> Entry:
        """The entry under `key`, which must exist."""
        found = await self.ledger.entry(self.account, key)
        assert found is not None, f"there is no entry under {key!r}"
        return found

    async def sums(self, syssn: str = HOLD) -> Authorization:
        """The stored authorization with its sums."""
        books = await self.ledger.books(self.account, syssn)
        assert books is not None, f"there is no authorization {syssn!r}"
        return books.authorization

    async def balance(self, syssn: str = HOLD, at_s: float = 1) -> Balance:
        """The books as the client shows them."""
        books = await self.ledger.books(self.account, syssn)
        assert books is not None, f"there is no authorization {syssn!r}"
        return balance_of(books.authorization, books.unresolved, moment(at_s))

    async def moves(self, key: str) -> list[tuple[State | None, State | None]]:
        """The moves of an entry, oldest first; a discrepancy is (None, None)."""
        return [(event.from_state, event.to_state) for event in await self.events(key)]

    async def events(self, key: str) -> list[Event]:
        """The history of an entry."""
        return list(await self.ledger.events(self.account, key))

    async def discrepancies(self, key: str) -> list[str]:
        """What contradicted this entry."""
        return [str(event.detail) for event in await self.events(key) if event.kind == "discrepancy"]

    async def everything(self, known: Iterable[tuple[str, str, str]] | None = None) -> list[object]:
        """All that the ledger says about all that this scene ever named: equal before and after where nothing moved."""
        found: list[object] = []
        for kind, account, name in sorted(self._known if known is None else known):
            if kind == "hold":
                books = await self.ledger.books(account, name)
                found.append(books and (books.authorization, sorted(books.unresolved, key=_key)))
            elif kind == "movement":
                found.append(await self.ledger.movement(account, name))
            else:
                found.append(await self.ledger.entry(account, name))
                found.append(list(await self.ledger.events(account, name)))
        return found

    async def refused(self, kind: type[E], request: Request) -> E:
        """Reserving must raise exactly `kind`, and write nothing."""
        return await self.raises(kind, lambda: self.ledger.reserve(request))

    async def raises(self, kind: type[E], verb: Callable[[], Awaitable[object]]) -> E:
        """The verb must raise exactly `kind`, and write nothing."""
        known = set(self._known)
        before = await self.everything(known)
        with pytest.raises(kind) as caught:
            await verb()
        assert type(caught.value) is kind, f"{caught.value!r} is not exactly {kind.__name__}"
        assert await self.everything(known) == before, "a verb that raised has written something"
        return caught.value

    async def check_fold(self, keys: Iterable[str], syssn: str = HOLD) -> None:
        """The sums of a hold must equal the fold of its entries' histories (design I7)."""
        sums = {"captured": 0, "claimed": 0, "unfrozen": 0, "refunded": 0}
        for key in keys:
            for event in await self.events(key):
                if event.authorization == syssn and event.kind != "discrepancy":
                    _fold(sums, event)
        stored = await self.sums(syssn)
        assert {name: getattr(stored, name) for name in sums} == sums


_DONE = {"capture": "captured", "unfreeze": "unfrozen", "refund": "refunded"}
_CLAIMS = (State.HELD, State.IN_DOUBT)


def _fold(sums: dict[str, int], event: Event) -> None:
    if event.kind != Operation.REFUND:
        sums["claimed"] += event.amount * ((event.to_state in _CLAIMS) - (event.from_state in _CLAIMS))
    if event.to_state is State.EXECUTED:
        sums[_DONE[event.kind]] += event.amount


def _key(entry: Entry) -> str:
    return entry.idempotency_key


def moment(seconds: float) -> datetime:
    """START and so many seconds."""
    return START + timedelta(seconds=seconds)


class Cases:
    """The root of all groups of cases: where their ledger comes from."""

    async def make_ledger(self, tmp_path: Path) -> Ledger:
        """A new ledger without any content; override it."""
        raise NotImplementedError("override `async def make_ledger(self, tmp_path) -> Ledger`")

    async def drop_ledger(self, ledger: Ledger) -> None:
        """Let go of what `make_ledger` made, after each test."""
        await ledger.close()


C = TypeVar("C", bound=Cases)


def case(test: Callable[[C, Scene], Awaitable[None]]) -> Callable[[C, Path], Awaitable[None]]:
    """A test method with a scene on an opened ledger; pytest sees an async method that wants `tmp_path`."""

    async def run(self: C, tmp_path: Path) -> None:
        ledger = await self.make_ledger(tmp_path)
        try:
            await ledger.open("sandbox")
            await test(self, Scene(ledger))
        finally:
            await self.drop_ledger(ledger)

    run.__name__, run.__qualname__, run.__doc__ = test.__name__, test.__qualname__, test.__doc__
    run.__module__ = test.__module__
    return run
