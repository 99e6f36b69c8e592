"""The demonstration: a seeded busy hour against the simulator, every doubt ended, and both sides' books compared.

What is done and what goes wrong is planned ahead from the seed, operation by operation, so that the order in which
tasks happen to run changes nothing: the same seed gives the same counts.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from qfpay_preauth._client import PreauthClient
from qfpay_preauth._demo_books import Check, Ended, Line, ended, lines, run_wrongly, unexplained
from qfpay_preauth._models import Entry, Operation, Result, State
from qfpay_preauth._settings import Credentials, Settings
from qfpay_preauth.errors import (
    AlreadyUnfrozenError,
    GatewayError,
    NotSentError,
    OperationInProgressError,
    OutcomeUnknownError,
    OverCaptureError,
    PreauthError,
)

if TYPE_CHECKING:  # the simulator is loaded when the demonstration runs
    from qfpay_preauth.testing import Gateway

CURRENCY = "HKD"
CAPTURES_PER_HOLD = 4
HOLDS_AT_ONCE = 20
NOTIFIED_EVERY = 4
_A_MOMENT = timedelta(milliseconds=50)
FAULT_KINDS: Sequence[Mapping[str, Any]] = (
    {"kind": "drop_before"},
    {"kind": "drop_after"},
    {"kind": "reset_before"},
    {"kind": "reset_after"},
    {"kind": "rate_limited"},
    {"kind": "rate_limited"},
    {"kind": "status_before", "status": 502},
    {"kind": "status_after", "status": 504},
    {"kind": "respcd", "code": "1201"},
    {"kind": "respcd", "code": "1205", "executed": True},
    {"kind": "respcd", "code": "1265"},
    {"kind": "pending", "then": "0000"},
    {"kind": "pending", "then": "1201"},
    {"kind": "late", "status": 504},
    {"kind": "cut"},
    {"kind": "garbled"},
    {"kind": "missigned"},
    {"kind": "slow", "pieces": 4, "seconds": 0.01},
)
"""What may go wrong: each ends within moments, and some only once the run is over (pending, late)."""


# ------------------------------------------------------------------------------------------------ the plan


@frozen
class Step:
    """One operation to try: its idempotency key, its amount (0: what is left), what goes wrong, and whether the caller
    asks a second time although all went well."""

    key: str
    amount: int = 0
    fault: Mapping[str, Any] | None = None
    asked_again: bool = False


@frozen
class Order:
    """One customer's order: the held sum, and what is tried on it, in this order. `returns` pairs with `parcels`."""

    amount: int
    parcels: tuple[Step, ...]
    returns: tuple[Step | None, ...]
    too_much: Step | None
    close: Step | None
    close_again: Step


def plan(seed: int, captures: int, fault_rate: float) -> list[Order]:
    """The orders of one run; the same arguments give the same plan."""
    holds = max(1, round(captures / CAPTURES_PER_HOLD))
    sizes = [captures // holds + (number < captures % holds) for number in range(holds)]
    return [_order(f"{seed}/{number}", f"order-{number:02d}", size, fault_rate) for number, size in enumerate(sizes, 1)]


def _order(seed: str, name: str, parcels: int, fault_rate: float) -> Order:
    dice = random.Random(seed)  # noqa: S311 - a seeded run is the point

    def step(key: str, amount: int = 0) -> Step:
        fault = dice.choice(FAULT_KINDS) if dice.random() < fault_rate else None
        return Step(f"{name}/{key}", amount, fault, asked_again=dice.random() < 0.1)

    # at most four fifths are captured, in different amounts: so something is left, and each can be told apart
    amount = dice.randrange(40_000, 200_000, 100) * max(1, parcels // CAPTURES_PER_HOLD)
    amounts: set[int] = set()
    while len(amounts) < parcels:
        amounts.add(int(amount * dice.uniform(0.4, 0.8) / parcels))
    shuffled = dice.sample(sorted(amounts), parcels)
    sent = [step(f"parcel-{number}", each) for number, each in enumerate(shuffled, 1)]
    back = [_return(dice, step, number, each.amount) for number, each in enumerate(sent, 1)]
    return Order(
        amount,
        tuple(sent),
        tuple(back),
        too_much=Step(f"{name}/too-much") if dice.random() < 0.3 else None,
        close=step("close") if dice.random() < 0.6 else None,
        close_again=Step(f"{name}/close-again"),
    )


def _return(dice: random.Random, step: Callable[[str, int], Step], number: int, amount: int) -> Step | None:
    return step(f"return-{number}", int(amount * dice.uniform(0.2, 1))) if dice.random() < 0.25 else None


# ------------------------------------------------------------------------------------------------ the run


@define
class Tally:
    """What happened on our side: calls made, and what was tried on purpose and what became of it."""

    calls: int = 0
    keys: list[str] = field(factory=list)
    over_captures: list[tuple[str, int]] = field(factory=list)
    over_captures_refused: int = 0
    unfreezes_again: int = 0
    unfreezes_again_refused: int = 0


class Run:
    """One run of the plan through `client` against `gateway`; `advance` is called after each capture."""

    def __init__(self, client: PreauthClient, gateway: Gateway, advance: Callable[[], object]) -> None:
        self.client = client
        self.gateway = gateway
        self.tally = Tally()
        self._advance = advance

    async def play(self, orders: Iterable[Order]) -> None:
        """Every order, many at once; the steps of one order follow each other."""
        waiting = iter(orders)

        async def worker() -> None:
            for order in waiting:
                await self._play(order)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(HOLDS_AT_ONCE):
                    group.create_task(worker())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _play(self, order: Order) -> None:
        syssn = self.gateway.hold(order.amount, CURRENCY)
        number = self.gateway.books.holds[syssn].out_trade_no
        await self.client.register_authorization(syssn, order.amount, CURRENCY, out_trade_no=number)
        done = []
        for parcel in order.parcels:
            done.append(await self._step(Operation.CAPTURE, syssn, parcel))
            self._advance()
        if order.too_much:
            await self._try_too_much(order.too_much.key, syssn)
        if order.close:
            await self._step(Operation.UNFREEZE, syssn, order.close)
            await self._try_to_close_again(order, syssn)
        for capture, back in zip(done, order.returns, strict=True):
            if capture and capture.syssn and back:
                await self._step(Operation.REFUND, capture.syssn, back)

    async def _step(self, operation: Operation, syssn: str, step: Step) -> Result | None:
        """The operation; where it gave no result, once more with the same key, as a careful caller would."""
        if step.fault:
            self.gateway.faults.add(_rule(operation, syssn, step))
        self.tally.keys.append(step.key)
        result = None
        for _ in range(2):
            self.tally.calls += 1
            try:
                result = await self._call(operation, syssn, step)
            except OperationInProgressError:
                return None  # an unfreeze has to wait for captures in doubt
            except (GatewayError, NotSentError, OutcomeUnknownError):
                continue
            if not step.asked_again:
                break
        return result

    async def _call(self, operation: Operation, syssn: str, step: Step) -> Result:
        if operation is Operation.CAPTURE:
            return await self.client.capture(syssn, step.amount, idempotency_key=step.key)
        if operation is Operation.REFUND:
            return await self.client.refund(syssn, step.amount, idempotency_key=step.key)
        return await self.client.unfreeze(syssn, idempotency_key=step.key)

    async def _try_too_much(self, key: str, syssn: str) -> None:
        amount = (await self.client.balance(syssn)).capturable + 100
        self.tally.calls += 1
        self.tally.over_captures.append((syssn, amount))
        try:
            await self.client.capture(syssn, amount, idempotency_key=key)
        except OverCaptureError:
            self.tally.over_captures_refused += 1
        except PreauthError:
            return  # not refused as it should be: the counts will differ

    async def _try_to_close_again(self, order: Order, syssn: str) -> None:
        first = await self.client.entry(order.close.key) if order.close else None
        if first is None or first.state is State.NOT_EXECUTED:
            return
        self.tally.calls += 1
        self.tally.unfreezes_again += 1
        try:
            await self.client.unfreeze(syssn, idempotency_key=order.close_again.key)
        except AlreadyUnfrozenError:
            self.tally.unfreezes_again_refused += 1
        except PreauthError:
            return


def _rule(operation: Operation, syssn: str, step: Step) -> Any:
    from qfpay_preauth.testing import Rule

    return Rule(operation=operation.value, syssn=syssn, amount=step.amount or None, **(step.fault or {}))


# ------------------------------------------------------------------------------------------------ the whole


@frozen
class Report:
    """What the run came to; `attempts` and `requests` are those of ours and those that arrived, enquiries left out."""

    holds: int
    lines: tuple[Line, ...]
    attempts: int
    requests: int
    limited: int
    over_captures_arrived: int
    unfreezes_again_arrived: int
    faults: int
    tally: Tally
    doubts: tuple[Ended, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every promise was kept."""
        return not any(check.broken for check in self.checks)


async def demonstrate(
    folder: Path,
    *,
    seed: int = 1,
    captures: int = 200,
    fault_rate: float = 0.1,
    advance: Callable[[], object],
    say: Callable[[str], object],
) -> Report:
    """Play the seed's orders with a ledger in `folder`, end every doubt by evidence, and compare the books.

    `advance` is told of each capture, `say` of each step after the last one.
    """
    from qfpay_preauth.testing import Gateway

    async with Gateway() as gateway:
        async with _client(folder, gateway) as client:
            run = Run(client, gateway, advance)
            await run.play(plan(seed, captures, fault_rate))
            # what the gateway still had in hand comes to its end: its books are final now
            gateway.settle_pending()
            gateway.run_late()
            doubts = await _doubts(client)
            await end_shown(client, gateway, doubts, say)
        # a day or more against the real gateway; this one is known to be at rest
        async with _client(folder, gateway, quiet_period_s=1) as client:
            await end_absent(client, say)
            return await _report(client, gateway, run.tally, doubts)


def _client(folder: Path, gateway: Gateway, quiet_period_s: float | None = None) -> PreauthClient:
    settings = Settings(
        timeout_connect_s=2,
        timeout_total_s=2,
        deadline_s=2,
        patience_s=0,
        backoff_initial_s=0.01,
        backoff_max_s=0.05,
        requests_per_second=100_000,
        requests_per_minute=1_000_000,
        quiet_period_s=quiet_period_s,
    )
    credentials = Credentials(gateway.app_code, gateway.client_key)
    ledger = f"sqlite:///{folder / 'ledger.db'}"
    return PreauthClient(credentials, base_url=gateway.url, ledger=ledger, settings=settings)


# ------------------------------------------------------------------------------------------------ how doubt ends


async def end_shown(
    client: PreauthClient, gateway: Gateway, doubts: Sequence[Entry], say: Callable[[str], object]
) -> None:
    """End what notifications tell of, and then what enquiries show. Whatever they do not show stays in doubt."""
    if not doubts:
        say("   0 in doubt")
        return
    say(f"{len(doubts):>4} in doubt: what they may have taken stays claimed, none is sent again")
    await _notify(client, gateway, doubts)
    say(f"{len(await _doubts(client)):>4} left after notifications that came late")
    while (await client.reconcile()).ended:
        pass  # what one pass has shown may be what the next one needs
    say(f"{len(await _doubts(client)):>4} left after reconcile(): its enquiries show what was executed or refused")


async def end_absent(client: PreauthClient, say: Callable[[str], object]) -> None:
    """What no enquiry shows was not sent: once the quiet period of the last one is over, and not before."""
    left = await _doubts(client)
    if not left:
        return
    say("     waiting for the quiet period: absence is not a no before")
    quiet = timedelta(seconds=client.settings.quiet_period_s or 0)
    over = max(entry.doubt_at for entry in left) + quiet + _A_MOMENT
    await asyncio.sleep((over - datetime.now(UTC)).total_seconds())
    for _ in range(2):
        await client.reconcile()
    say(f"{len(await _doubts(client)):>4} left after reconcile() twice more: absent both times means not sent")


async def _doubts(client: PreauthClient) -> list[Entry]:
    """Every entry in doubt, by its key."""
    keys = sorted([doubt.idempotency_key async for doubt in client.in_doubt()])
    return [entry for key in keys if (entry := await client.entry(key))]


async def _notify(client: PreauthClient, gateway: Gateway, doubts: Iterable[Entry]) -> None:
    """The notification of every fourth doubt that the gateway executed, handed over as a web application would."""
    moved = {(each.kind, each.orig_syssn, each.amount): each.syssn for each in gateway.books.executions()}
    made = [moved.get((entry.operation.value, entry.syssn, entry.amount)) for entry in doubts]
    for syssn in [each for each in made if each][::NOTIFIED_EVERY]:
        body, headers = gateway.notification(syssn)
        await client.handle_notification(body, headers)


# ------------------------------------------------------------------------------------------------ the report


async def _report(client: PreauthClient, gateway: Gateway, tally: Tally, doubts: Sequence[Entry]) -> Report:
    books = gateway.books
    balances = {syssn: await client.balance(syssn) for syssn in books.holds}
    totals = {syssn: books.totals(syssn) for syssn in books.holds}
    entry_of = {key: entry for key in tally.keys if (entry := await client.entry(key))}
    entries = list(entry_of.values())
    listed = [entry_of[doubt.idempotency_key] async for doubt in client.in_doubt()]
    arrived = _arrived_in_spite(gateway, tally)
    tried = len(tally.over_captures) + tally.unfreezes_again
    slipped = tried - tally.over_captures_refused - tally.unfreezes_again_refused + sum(arrived)
    checks = (
        Check("no hold was exceeded at the gateway", tuple(books.audit())),
        Check("no idempotency key ran twice", tuple(run_wrongly(entries, books.executions()))),
        Check("every difference is an entry still in doubt", tuple(unexplained(balances, totals, listed))),
        Check(
            "every over-capture and second unfreeze was refused before sending",
            (f"{slipped} of {tried} were not",) if slipped else (),
        ),
    )
    return Report(
        holds=len(books.holds),
        lines=lines(balances.values(), totals.values(), doubts),
        attempts=sum(entry.attempt for entry in entries),
        requests=sum(each.operation in _MOVES_MONEY for each in gateway.requests),
        limited=gateway.faults.hits["rate_limited"],
        over_captures_arrived=arrived[0],
        unfreezes_again_arrived=arrived[1],
        faults=sum(gateway.faults.hits.values()),
        tally=tally,
        doubts=tuple(ended(before, entry_of[before.idempotency_key]) for before in doubts),
        checks=checks,
    )


_MOVES_MONEY = frozenset(each.value for each in Operation)


def _arrived_in_spite(gateway: Gateway, tally: Tally) -> tuple[int, int]:
    """How many of the over-captures and second unfreezes reached the gateway."""
    wrong = {(syssn, str(amount)) for syssn, amount in tally.over_captures}
    captures = [each.params for each in gateway.requests if each.operation == "capture"]
    unfrozen: set[str] = set()
    again = 0
    for each in gateway.requests:
        if each.operation == "unfreeze":
            again += each.params["syssn"] in unfrozen
            if each.executed:
                unfrozen.add(each.params["syssn"])
    return sum((each["syssn"], each["txamt"]) in wrong for each in captures), again
