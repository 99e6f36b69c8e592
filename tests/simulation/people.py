"""The people beside the machine: who looks at the books, and who decides about doubts, rightly or wrongly."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from qfpay_preauth.errors import Outcome
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.site import Site


async def look(site: Site, process: Process) -> None:
    """Read everything that can be read; it must not change anything."""
    client = process.clients[site.number]
    balance = await client.balance(site.holds[0].syssn)
    if balance.capturable < 0 or balance.capturable > balance.authorized:
        site.auditor.fail("I1", f"capturable is {balance.capturable} of {balance.authorized}")
    async for doubt in client.in_doubt():
        if site.auditor.entries[doubt.idempotency_key].amount != doubt.amount:
            site.auditor.fail("I7", f"the listed doubt {doubt.idempotency_key} is not what was committed")
    async for _ in client.expiring(timedelta(days=1)):
        pass


async def decide(site: Site, process: Process, *, right: bool) -> None:
    """Decide one doubt: after a look at the gateway's own books, or against them."""
    world, client = site.world, process.clients[site.number]
    doubts = [doubt async for doubt in client.in_doubt()]
    if not doubts:
        return
    key = world.dice.choice(doubts).idempotency_key
    done = site.auditor.executions[key]
    settled = bool(done) or world.loop.virtual > site.auditor.last_sent.get(key, 0.0) + world.scenario.late_s + 10.0
    if right and (not settled or len(done) > 1):
        return  # nobody can know yet
    happened = bool(done) if right else not done
    syssn = done[0][1].syssn if right and done and world.dice.random() < 0.7 else None
    outcome = Outcome.HAPPENED if happened else Outcome.NOTHING_HAPPENED
    site.auditor.forced[key] = "right" if right else "wrong"
    world.hits["decide_right" if right else "decide_wrong"] += 1
    site.note(f"operator: {key} is decided {'rightly' if right else 'wrongly'}: {outcome.value}")
    await client.resolve(key, outcome, reason="simulated", syssn=syssn)
