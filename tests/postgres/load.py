"""Many processes on one ledger and one gateway that loses answers, with trouble on the way; then the books compared."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
from attrs import field, frozen

from qfpay_preauth import PreauthClient
from qfpay_preauth._clock import SystemClock
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing import Config, Faults, Gateway
from tests.nursery import Nursery, spawning

from .kit import new_schema, sql, url_of
from .server import Server
from .worker import TOTAL, Plan, client_of_plan

LOST = ("drop_before", "drop_after", "reset_after")
CURRENCY = "HKD"
RECONCILED_MAX = 200  # holds; with more, thousands of doubts would be looked up, which is not what is measured here

Trouble = Callable[[Server, str, random.Random], Coroutine[Any, Any, None]]
"""Makes trouble until it is cancelled: at a server, for the connections named after a schema."""


@frozen
class Outcome:
    """What a run showed."""

    said: Counter[str]
    executed: int
    in_doubt: int
    lost: int
    wrong: list[str] = field(factory=list)


class Later(SystemClock):
    """A clock that is ahead: whatever was held by a process that died is in doubt."""

    def now(self) -> datetime:
        return super().now() + timedelta(minutes=10)


async def terminate_backends(server: Server, schema: str, dice: random.Random) -> None:
    """Every now and then the server ends some of our connections, whatever they are doing."""
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = $1 AND random() < 0.3"
    )
    while True:
        await asyncio.sleep(0.05 + dice.random() * 0.2)
        with contextlib.suppress(OSError, asyncpg.PostgresError):  # the server may be down, by other trouble
            async with sql(server) as connection:
                await connection.fetchval(kill, schema)


async def stop_and_start(server: Server, schema: str, dice: random.Random) -> None:
    """The server is stopped at once, as if its machine had failed, and started again a moment later."""
    while True:
        await asyncio.sleep(1.0 + dice.random())
        await asyncio.to_thread(server.order, "stop immediate")
        await asyncio.sleep(dice.random() * 0.5)
        await asyncio.to_thread(server.order, "start")
        await asyncio.sleep(1.0)


async def run(
    server: Server,
    folder: Path,
    *,
    processes: int,
    holds: int,
    seed: int,
    troubles: tuple[Trouble, ...] = (),
    cancelled: float = 0.0,
) -> Outcome:
    """One whole run; `wrong` is empty where everything agrees."""
    faults = Faults.random(seed, 0.1, LOST, operation="capture")
    # the gateway lets everything through: what would be over its total must be stopped by the ledger
    async with Gateway(Config(enforce=False), faults=faults) as gateway:
        ledger = PostgresLedger(url_of(server, new_schema()))
        await ledger.migrate("sandbox")
        url = url_of(server, ledger.schema)
        syssns = tuple(gateway.hold(TOTAL, CURRENCY) for _ in range(holds))
        plan = Plan(gateway.url, url, seed, processes, syssns, cancelled)
        plan.write(folder / "plan.json")
        async with client_of_plan(plan) as client:
            await _register(client, gateway, syssns)
        async with _in_trouble(server, ledger.schema, seed, troubles):
            reports = await _work(folder, processes)
        gateway.faults.clear()
        client = client_of_plan(plan)
        client._clock = Later()
        if reconciled := holds <= RECONCILED_MAX:
            async with client:
                await _reconcile(client)
        return await _compare(server, ledger.schema, gateway, reports, reconciled=reconciled)


async def _register(client: PreauthClient, gateway: Gateway, syssns: tuple[str, ...]) -> None:
    await asyncio.gather(
        *(
            client.register_authorization(syssn, TOTAL, CURRENCY, out_trade_no=gateway.books.holds[syssn].out_trade_no)
            for syssn in syssns
        )
    )
    # both words have to be shown before an unlinked row can prove a capture
    gateway.faults, faults = Faults(), gateway.faults
    teacher = gateway.hold(TOTAL, CURRENCY, out_trade_no="TEACHER")
    await client.register_authorization(teacher, TOTAL, CURRENCY, out_trade_no="TEACHER")
    await client.capture(teacher, 500, idempotency_key="teacher/capture")
    await client.unfreeze(teacher, idempotency_key="teacher/unfreeze")
    await client.reconcile()
    gateway.faults = faults


@asynccontextmanager
async def _in_trouble(server: Server, schema: str, seed: int, troubles: tuple[Trouble, ...]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each(server, schema, random.Random(f"{seed}/{each.__name__}"))) for each in troubles]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if stop_and_start in troubles:  # it may have been stopped between the two
            await asyncio.to_thread(server.order, "restart fast")


async def _work(folder: Path, processes: int) -> list[dict[str, dict[str, str]]]:
    words = ("tests.postgres.worker", str(folder / "plan.json"))
    with Nursery() as nursery:
        async with spawning(nursery) as spawn:
            children = [await spawn(*words, str(number)) for number in range(processes)]
            for child in children:
                assert await child.said.readline() == b"ready\n"
            for child in children:
                child.writer.write(b"go\n")
            ends = [await child.ended() for child in children]
    assert [code for _, code in ends] == [0] * processes, ends
    return [json.loads(said.splitlines()[-1]) for said, _ in ends]


async def _reconcile(client: PreauthClient) -> None:
    """Until the evidence that is there has ended what it can."""
    before = -1
    while before != 0:
        report = await client.reconcile()
        assert report.complete
        before = len(report.ended)


async def _compare(
    server: Server, schema: str, gateway: Gateway, reports: list[dict[str, dict[str, str]]], *, reconciled: bool
) -> Outcome:
    async with sql(server) as connection:
        entries = await connection.fetch(
            f'SELECT idempotency_key, syssn, amount, state, result_syssn FROM "{schema}".entries '
            "WHERE operation = 'capture'"
        )
        holds = await connection.fetch(f'SELECT syssn, amount, captured, claimed FROM "{schema}".authorizations')
        await connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
    said: Counter[str] = sum((Counter(each["said"]) for each in reports), Counter())
    theirs = {each.syssn: each for each in gateway.books.executions() if each.kind == "capture"}
    ours = {row["result_syssn"]: row for row in entries if row["state"] == "executed"}
    wrong = [f"gateway: {each}" for each in gateway.books.audit()]
    wrong += _over(holds)
    twice = Counter((each.hold_syssn, each.amount) for each in theirs.values())
    wrong += [f"executed {count} times: {what}" for what, count in twice.items() if count > 1]
    wrong += _differences(ours, theirs, entries, reconciled=reconciled)
    by_key = {row["idempotency_key"]: row["result_syssn"] for row in ours.values()}
    wrong += [
        f"{key} was told to be {syssn}, and is {by_key.get(key)}"
        for report in reports
        for key, syssn in report["got"].items()
        if by_key.get(key) != syssn
    ]
    doubts = sum(row["state"] in ("held", "in_doubt") for row in entries)
    return Outcome(said, len(ours), doubts, sum(gateway.faults.hits.values()), wrong)


def _over(holds: Sequence[Any]) -> list[str]:
    taken = [(row["syssn"], row["captured"] + row["claimed"], row["amount"]) for row in holds]
    return [f"{syssn}: {sum_} taken or claimed of {amount}" for syssn, sum_, amount in taken if sum_ > amount]


def _differences(
    ours: dict[str, Any], theirs: dict[str, Any], entries: Sequence[Any], *, reconciled: bool
) -> list[str]:
    wrong = []
    for syssn, row in ours.items():
        there = theirs.get(syssn)
        if there is None or (there.hold_syssn, there.amount) != (row["syssn"], row["amount"]):
            wrong.append(f"{row['idempotency_key']} is executed as {syssn} here, and {there} there")
    doubted = {(row["syssn"], row["amount"]) for row in entries if row["state"] in ("held", "in_doubt")}
    for syssn, there in theirs.items():
        if syssn not in ours and there.amount != 500 and (there.hold_syssn, there.amount) not in doubted:
            wrong.append(f"{there} is in no entry here")
    if reconciled:  # evidence was there for every one of these
        shown = {(there.hold_syssn, there.amount) for syssn, there in theirs.items() if syssn not in ours}
        wrong += [f"{what} is in doubt, though the gateway shows it" for what in doubted & shown]
    return wrong
