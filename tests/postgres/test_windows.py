"""The rate windows shared through PostgreSQL: many processes and machines, one budget, one clock."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from qfpay_preauth._windows import Claim
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing import Gateway
from tests.nursery import Spawn
from tests.support import client_of, registered

from .kit import new_schema, sql, url_of
from .proxy import proxied
from .server import Server, server

CLOCKS_S = (0.0, 1e9, -1e6, 12_345.678)  # what time.monotonic() says has nothing to do with another machine's


def _claim(clock_s: float, wanted: int, **more: Any) -> Claim:
    loop = asyncio.get_running_loop()
    claim = Claim("gateway#M-1", 10, 300, wanted, lambda: loop.time() + clock_s)
    return evolve(claim, **more)


async def test_machines_need_no_common_clock(ledger: PostgresLedger, url: str) -> None:
    """Four ledgers whose clocks have nothing in common draw at once: together they get what one second holds."""
    others = [PostgresLedger(url) for _ in CLOCKS_S]
    await asyncio.gather(*(each.open("sandbox") for each in others))
    grants = await asyncio.gather(
        *(each.draw(_claim(clock, 2)) for each, clock in zip(others, CLOCKS_S, strict=True) for _ in range(4))
    )
    assert sum(grant.permits for grant in grants) == 10
    assert len({grant.block for grant in grants if grant.permits}) == 5
    none = await others[0].draw(_claim(CLOCKS_S[0], 1))
    assert none.permits == 0
    assert 0 < none.wait_s <= 1
    await asyncio.gather(*(each.close() for each in others))


@pytest.mark.parametrize("clock", CLOCKS_S)
async def test_what_was_sent_long_ago_is_told_so(ledger: PostgresLedger, clock: float) -> None:
    """A sending that is told late is counted at its own moment, by the difference of the teller's clock."""
    first = await ledger.draw(_claim(clock, 10))
    now = _claim(clock, 0).now()
    told = _claim(clock, 10, spent=((first.block, 10),), spent_at=now - 1.5)
    assert (await ledger.draw(told)).permits == 10  # it has left the second's window, not the minute's
    fresh = await ledger.draw(_claim(clock, 1))
    assert fresh.permits == 0


async def test_the_clock_is_read_once_the_row_is_locked(ledger: PostgresLedger, postgres: Server) -> None:
    """Who waited for the row for more than a second gets the permits of the second that it is by then."""
    block = (await ledger.draw(_claim(0.0, 10))).block
    await ledger.draw(_claim(0.0, 0, spent=((block, 10),), spent_at=_claim(0.0, 0).now()))
    async with sql(postgres) as connection:
        async with connection.transaction():
            await connection.execute(f'SELECT 1 FROM "{ledger.schema}".windows FOR UPDATE')
            draw = asyncio.create_task(ledger.draw(_claim(0.0, 10)))
            await asyncio.sleep(1.2)
        assert (await draw).permits == 10


async def test_draws_that_come_together_are_one_transaction(ledger: PostgresLedger, postgres: Server) -> None:
    """Each sees what those before it drew, and a draw alone takes four messages."""
    async with proxied(postgres) as (proxy, seen):
        other = PostgresLedger(url_of(seen, ledger.schema))
        await other.open("sandbox")
        assert (await other.draw(_claim(0.0, 2))).permits == 2
        before, commits = proxy.messages, proxy.commits
        assert (await other.draw(_claim(0.0, 2))).permits == 2
        assert (proxy.messages - before, proxy.commits - commits) == (4, 1)
        grants = await asyncio.gather(*(other.draw(_claim(0.0, 2)) for _ in range(5)))
        assert [grant.permits for grant in grants] == [2, 2, 2, 0, 0]
        assert proxy.commits - commits == 2
        await other.close()


async def test_processes_share_the_budget(url: str, qfpay_gateway: Gateway, spawn: Spawn) -> None:
    """Three processes on one ledger, each allowed all of the budget: together they arrive no faster than it says."""
    await PostgresLedger(url).migrate("sandbox")
    per_second, each = 20, "20"
    async with client_of(qfpay_gateway, url) as client:
        syssns = [await registered(client, qfpay_gateway, 9_000_000) for _ in range(12)]
    runs = []
    for number in range(3):
        arguments = (qfpay_gateway.url, url, f"b{number}", each, str(per_second), *syssns[number * 4 :][:4])
        runs.append(await spawn("tests.client.child", "burst", *arguments))
    assert [await process.ended() for process in runs] == [(b"done\n", 0)] * 3
    moments = [request.at for request in qfpay_gateway.requests]
    assert len(moments) == 60
    jitter = timedelta(milliseconds=100)  # between sending and arriving
    window = timedelta(seconds=1) - jitter
    assert max(sum(begin <= at <= begin + window for at in moments) for begin in moments) <= per_second


@pytest.mark.skipif("QFPAY_TEST_POSTGRES" in os.environ, reason="only a server of our own can be stopped")
async def test_windows_survive_a_crash(tmp_path: Path) -> None:
    """After the server was killed and came back, what was drawn before still counts: nobody gets a second budget."""
    with server(tmp_path / "postgres") as own:
        ledger = PostgresLedger(url_of(own, new_schema()), migrate=True)
        await ledger.open("sandbox")
        assert (await ledger.draw(_claim(0.0, 10))).permits == 10
        await asyncio.to_thread(own.order, "stop immediate")
        await asyncio.to_thread(own.order, "start")
        assert (await ledger.draw(_claim(0.0, 1))).permits == 0
        await ledger.close()
