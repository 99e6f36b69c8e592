"""Many doubts at once: the gateway's list is read once for all of them, and old ones do not make every look long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from qfpay_preauth import BatchRow, PreauthClient, RowOutcome
from qfpay_preauth._reconcile import Reconciler
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import HOLD, Clock, check_equal, doubts, gateway_at, lose, queries, set_clock, teach_words
from tests.support import client_of, registered

MANY = 230  # more than twice what is weighed together; with their holds, five pages of rows
NOON = datetime(2026, 3, 10, 12, 0, 0, tzinfo=UTC)


def _reconciler(client: PreauthClient) -> Reconciler:
    running = client._running
    assert running is not None
    return running.reconciler


async def test_one_list_ends_all_doubts_of_its_time(qfpay_gateway: Gateway) -> None:
    """230 doubts end by two readings of the list, of five pages each, and not by two for each hundred of them."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        holds = [await registered(client, qfpay_gateway, HOLD) for _ in range(MANY)]
        await asyncio.gather(*(lose(client, qfpay_gateway, hold, key=f"lost-{hold}") for hold in holds))
        assert len(await doubts(client)) == MANY
        before = queries(qfpay_gateway)
        seen = await _reconciler(client).end_doubts()
        assert queries(qfpay_gateway) - before == 2 * 5
        assert sum(len(observed.ended) for observed in seen.observed) == MANY
        assert await doubts(client) == []
        await check_equal(client, qfpay_gateway, *holds)


async def test_doubts_that_stay_share_the_list_too(qfpay_gateway: Gateway) -> None:
    """230 captures that never arrived cost as few enquiries, and the list counts as looked at for each of them."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        holds = [await registered(client, qfpay_gateway, HOLD) for _ in range(MANY)]
        lost = (lose(client, qfpay_gateway, hold, key=f"lost-{hold}", fault="drop_before") for hold in holds)
        await asyncio.gather(*lost)
        before = queries(qfpay_gateway)
        seen = await _reconciler(client).end_doubts()
        assert queries(qfpay_gateway) - before == 2 * 3  # the holds alone
        assert [len(observed.ended) for observed in seen.observed] == [0, 0, 0]
        assert len(await doubts(client)) == MANY


async def test_what_waits_for_a_person_does_not_make_every_look_long() -> None:
    """Between two passes, a doubt that has needed attention for a day is left out; a pass looks at it."""
    clock = Clock(NOON)
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await lose(client, gateway, await registered(client, gateway, HOLD))
        await client.reconcile()  # no word for a capture is known yet: only a person can tell
        assert [doubt.needs_attention async for doubt in client.in_doubt()] == [True]
        for hours, recent, asked in ((23, True, 1), (25, True, 0), (25, False, 1)):
            clock.ahead = timedelta(hours=hours)
            before = queries(gateway)
            await _reconciler(client).end_doubts(recent=recent)
            assert (hours, recent, queries(gateway) - before) == (hours, recent, asked)


async def test_what_waits_for_a_person_does_not_hold_up_a_batch() -> None:
    """Before its first row a batch looks at doubts, but not at one that has needed attention for a day."""
    clock = Clock(NOON)
    async with gateway_at(clock) as gateway, set_clock(client_of(gateway), clock) as client:
        await lose(client, gateway, await registered(client, gateway, HOLD))
        await client.reconcile()
        for hours, asked in ((23, 1), (25, 0)):
            clock.ahead = timedelta(hours=hours)
            before, row = queries(gateway), BatchRow(f"after-{hours}", await registered(client, gateway, HOLD), 5_000)
            outcomes = [outcome.outcome async for outcome in client.capture_many([row])]
            assert (outcomes, queries(gateway) - before) == ([RowOutcome.EXECUTED], asked)
