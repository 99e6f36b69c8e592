"""`capture_many` against the simulator: what is done, what is done once, and what becomes of everything else."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from qfpay_preauth import (
    BatchRow,
    Credentials,
    InvalidRequestError,
    Operation,
    OutcomeUnknownError,
    PreauthClient,
    RowOutcome,
    Settings,
)
from qfpay_preauth import _batch_teller as teller
from qfpay_preauth._turnstile import Permit, Turnstile
from qfpay_preauth._windows import Lane
from qfpay_preauth.testing import Faults, Gateway
from tests.batch.kit import by_key, captures, executed, holds_of, ran, registering, sent, words
from tests.client.kit import turns
from tests.evidence.kit import teach_words
from tests.support import QUICK, client_of, registered, sqlite_url

# ------------------------------------------------------------------------------------------------ once


@pytest.mark.parametrize("ledger", ["memory", "sqlite"])
async def test_everything_is_done_once(qfpay_gateway: Gateway, tmp_path: Path, ledger: str) -> None:
    """Run, and run again in a new client: the same rows are replayed with the same results, and nothing is sent."""
    url = sqlite_url(tmp_path) if ledger == "sqlite" else "memory://"
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 100)
    async with client_of(qfpay_gateway, url) as client:
        first = await ran(client, rows)
        assert words(first) == {"executed": 100}
        again = await ran(client, iter(rows))
    if ledger == "sqlite":
        async with client_of(qfpay_gateway, url) as client:
            again = await ran(client, rows)
    assert words(again) == {"replayed": 100}
    assert {each.idempotency_key: each.result_syssn for each in first} == {
        each.idempotency_key: each.result_syssn for each in again
    }
    assert sent(qfpay_gateway) == 100
    assert executed(qfpay_gateway).total() == 100


async def test_an_outcome_says_everything(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Line, key, operation, ids, amount, code and message, for what was done and for what was not."""
    (hold,) = holds_of(qfpay_gateway, 1)
    rows = [registering(qfpay_gateway, hold, "a", 1_000, line=12), BatchRow("b", hold, 499_001), "nonsense"]
    refused, invalid, done = sorted(await ran(client, rows), key=lambda each: each.line)
    assert (done.line, done.outcome, done.operation, done.syssn) == (12, RowOutcome.EXECUTED, Operation.CAPTURE, hold)
    assert (done.amount, done.currency, done.code) == (1_000, "HKD", "0000")
    assert done.result_syssn in {each.syssn for each in qfpay_gateway.books.executions()}
    assert (refused.line, refused.outcome, refused.code) == (2, RowOutcome.REFUSED, "OverCaptureError")
    assert "499001" in refused.message
    assert (invalid.line, invalid.outcome, invalid.row, invalid.given) == (3, RowOutcome.INVALID, None, "nonsense")
    assert sent(qfpay_gateway) == 1


async def test_rows_of_a_file_register_capture_unfreeze_and_refund(
    client: PreauthClient, qfpay_gateway: Gateway
) -> None:
    """Rows of one hold run in their order, so an unfreeze may stand right behind the captures that it follows."""
    hold, other = holds_of(qfpay_gateway, 2)
    number = qfpay_gateway.books.holds[hold].out_trade_no
    rows: list[dict[str, Any]] = [
        {
            "idempotency_key": "a",
            "syssn": hold,
            "amount": "1000",
            "currency": "HKD",
            "out_trade_no": number,
            "authorized_amount": "500000",
        },
        {"idempotency_key": "b", "syssn": hold, "amount": 1_000, "operation": "capture", "account": client.account},
        {"idempotency_key": "c", "syssn": hold, "operation": "unfreeze"},
        {"idempotency_key": "d", "syssn": hold, "amount": "1"},
        {"idempotency_key": "e", "syssn": other, "amount": "1000"},
    ]
    outcomes = await ran(client, rows)
    assert by_key(outcomes) == {"a": "executed", "b": "executed", "c": "executed", "d": "refused", "e": "refused"}
    capture = next(each.result_syssn for each in outcomes if each.idempotency_key == "b")
    again = [*rows, {"idempotency_key": "f", "syssn": capture, "amount": "300", "operation": "refund"}]
    assert words(await ran(client, again)) == {"replayed": 3, "refused": 2, "executed": 1}
    totals = qfpay_gateway.books.totals(hold)
    assert (totals.captured, totals.unfrozen, totals.refunded) == (2_000, 498_000, 300)
    unfrozen = next(each for each in outcomes if each.idempotency_key == "c")
    assert unfrozen.amount == 498_000


async def test_two_rows_with_one_key(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """The same request again is replayed; another request is refused; whatever the concurrency."""
    one, two = holds_of(qfpay_gateway, 2)
    first = registering(qfpay_gateway, one, "k", 1_000)
    outcomes = await ran(client, [first, registering(qfpay_gateway, two, "k", 1_000), first, BatchRow("k", one, 1_001)])
    assert sorted((each.line, each.outcome.value) for each in outcomes) == [
        (1, "executed"),
        (2, "refused"),
        (3, "replayed"),
        (4, "refused"),
    ]


@pytest.mark.parametrize(
    ("more", "outcome"),
    [
        ({"currency": "USD"}, "refused"),
        ({"out_trade_no": "ANOTHER"}, "refused"),
        ({"currency": "HKD", "out_trade_no": "ORDER-1"}, "executed"),
        ({"authorized_amount": 50_001, "currency": "HKD", "out_trade_no": "ORDER-1"}, "refused"),
        ({"authorized_amount": 50_000, "currency": "JPY", "out_trade_no": "ORDER-1"}, "invalid"),
    ],
)
@pytest.mark.parametrize("operation", [Operation.CAPTURE, Operation.REFUND, Operation.UNFREEZE])
async def test_what_a_row_says_of_its_hold_must_be_so(
    client: PreauthClient, qfpay_gateway: Gateway, operation: Operation, more: dict[str, Any], outcome: str
) -> None:
    """An amount in another currency, or on another order, is refused before anything is sent."""
    if operation is Operation.REFUND and "authorized_amount" in more:
        outcome = "invalid"
    hold = await registered(client, qfpay_gateway, 50_000, out_trade_no="ORDER-1")
    syssn = (
        (await client.capture(hold, 2_000, idempotency_key="before")).syssn if operation is Operation.REFUND else hold
    )
    amount = None if operation is Operation.UNFREEZE else 1_000
    earlier = len(qfpay_gateway.requests)
    (found,) = await ran(client, [BatchRow("k", str(syssn), amount, operation, **more)])
    assert found.outcome == outcome, found
    assert len(qfpay_gateway.requests) - earlier == (outcome == "executed")


# ------------------------------------------------------------------------------------------------ doubt


async def test_doubts_are_looked_at_first(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """Lost answers are in doubt; the next run finds the evidence before its first row, and sends none of them again."""
    url = sqlite_url(tmp_path)
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 40)
    async with client_of(qfpay_gateway, url, capture_reference=True) as client:
        qfpay_gateway.faults.add("drop_after", operation="capture", times=10)
        assert words(await ran(client, rows)) == {"executed": 30, "in_doubt": 10}
    qfpay_gateway.requests.clear()
    async with client_of(qfpay_gateway, url, capture_reference=True) as client:
        assert words(await ran(client, rows)) == {"replayed": 40}
    assert {each.operation for each in qfpay_gateway.requests} == {"query"}
    assert executed(qfpay_gateway).total() == 40


async def test_a_gateway_that_cannot_be_asked_stops_nobody(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """If the look for evidence fails, the doubts stay as they are, and the other rows go on."""
    url = sqlite_url(tmp_path)
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 4)
    async with client_of(qfpay_gateway, url) as client:
        qfpay_gateway.faults.add("drop_after", operation="capture")
        await ran(client, rows[:1])
        qfpay_gateway.faults.add("status_before", operation="query", times=None, status=500)
        assert words(await ran(client, rows)) == {"in_doubt": 1, "executed": 3}
    assert executed(qfpay_gateway).total() == 4


async def test_a_twin_of_a_doubt_is_not_sent(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """It could not be told from the first by any evidence; once the doubt has ended, running again is right."""
    await teach_words(client, qfpay_gateway)
    (hold,) = holds_of(qfpay_gateway, 1)
    rows = [registering(qfpay_gateway, hold, "a", 1_000), BatchRow("b", hold, 1_000), BatchRow("c", hold, 2_000)]
    qfpay_gateway.faults.add("drop_after", operation="capture", amount=1_000)
    outcomes = await ran(client, rows)
    assert by_key(outcomes) == {"a": "in_doubt", "b": "not_sent", "c": "executed"}
    assert "'a'" in next(each.message for each in outcomes if each.idempotency_key == "b")
    assert words(await ran(client, rows)) == {"replayed": 2, "executed": 1}
    assert executed(qfpay_gateway)["capture", hold, 1_000] == 2


async def test_a_row_under_way_elsewhere_is_waited_for(qfpay_gateway: Gateway, tmp_path: Path, soon: None) -> None:
    """Two runners on one ledger: what the other sends is replayed here, and other rows go on meanwhile."""
    url = sqlite_url(tmp_path)
    one, two = holds_of(qfpay_gateway, 2)
    rows = [registering(qfpay_gateway, one, "a", 1_000), registering(qfpay_gateway, two, "b", 2_000)]
    qfpay_gateway.faults.add("hang_after", operation="capture", amount=1_000)
    async with client_of(qfpay_gateway, url) as first, client_of(qfpay_gateway, url) as second:
        theirs = asyncio.create_task(ran(first, rows[:1]))
        await qfpay_gateway.wait_hanging()
        mine = second.capture_many(rows)
        found = [await anext(mine)]
        assert by_key(found) == {"b": "executed"}
        last = asyncio.ensure_future(anext(mine))
        await turns(50)
        assert not last.done()
        qfpay_gateway.release()
        assert by_key([await last]) == {"a": "replayed"}
        assert words(await theirs) == {"executed": 1}
    assert executed(qfpay_gateway).total() == 2


async def test_a_row_held_by_nobody_any_more_is_in_doubt(qfpay_gateway: Gateway, tmp_path: Path, soon: None) -> None:
    """What a killed process left held is waited for until its time is over; it is never sent again."""
    url = sqlite_url(tmp_path)
    (row,) = captures(qfpay_gateway, holds_of(qfpay_gateway, 1), 1)
    async with client_of(qfpay_gateway, url, timeout_total_s=0.2) as dead:
        await dead.register_authorization(row.syssn, 500_000, "HKD", out_trade_no=str(row.out_trade_no))
        await dead._ledger.reserve(dead._request(Operation.CAPTURE, row.syssn, 1_000, "k0", 0.3))
    async with client_of(qfpay_gateway, url) as client:
        (found,) = await ran(client, [row])
        assert [doubt.idempotency_key async for doubt in client.in_doubt()] == ["k0"]
    assert (found.outcome, found.code) == (RowOutcome.IN_DOUBT, "OutcomeUnknownError")
    assert sent(qfpay_gateway) == 0


# ------------------------------------------------------------------------------------------------ again within the run


async def test_rows_that_meet_429_are_executed(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """The account waits, and every row is executed once."""
    qfpay_gateway.faults.add("rate_limited", operation="capture", times=12, retry_after="0")
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 30)
    assert words(await ran(client, rows)) == {"executed": 30}
    assert executed(qfpay_gateway).total() == 30
    assert sent(qfpay_gateway) == 42


async def test_a_row_that_meets_429_again_and_again(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """More often than one call tries: the run tries it again, a bounded number of times."""
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway, 2), 2)
    attempts = client.settings.attempts_max
    qfpay_gateway.faults.add("rate_limited", operation="capture", amount=1_000, times=2 * attempts + 1, retry_after="0")
    assert words(await ran(client, rows)) == {"executed": 2}
    always = qfpay_gateway.faults.add("rate_limited", operation="capture", amount=7, times=None, retry_after="0")
    before = qfpay_gateway.faults.hits["rate_limited"]
    (limited,) = await ran(client, [BatchRow("always", rows[0].syssn, 7)])
    assert (limited.outcome, limited.code) == (RowOutcome.NOT_SENT, "429")
    assert qfpay_gateway.faults.hits["rate_limited"] - before == attempts * (1 + teller.LIMITED_MAX)
    assert always.kind == "rate_limited"


async def test_a_gateway_that_is_away_for_a_while(client: PreauthClient, qfpay_gateway: Gateway, soon: None) -> None:
    """Rows that did not reach it are tried again a few times, then they are `not_sent`; running again is right."""
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 10)
    await qfpay_gateway.refuse_connections()
    outcomes = await ran(client, rows)
    assert words(outcomes) == {"not_sent": 10}
    entry = await client.entry("k0")
    assert entry is not None
    assert entry.attempt == 1 + teller.NOT_SENT_MAX
    await qfpay_gateway.accept_connections()
    assert words(await ran(client, rows)) == {"executed": 10}


async def test_evidence_is_looked_for_in_the_caller_s_lane(
    qfpay_gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a batch row needs to know does not go before a person's call, nor takes the room that is kept for it."""
    asked: list[Lane] = []
    permit = Turnstile.permit

    async def noted(turnstile: Turnstile, deadline: float, lane: Lane = Lane.INTERACTIVE) -> Permit:
        asked.append(lane)
        return await permit(turnstile, deadline, lane)

    monkeypatch.setattr(Turnstile, "permit", noted)
    qfpay_gateway.faults.add("drop_after", operation="capture", times=2)
    async with client_of(qfpay_gateway, patience_s=1) as client:
        (row,) = captures(qfpay_gateway, holds_of(qfpay_gateway), 1)
        await ran(client, [row])
        assert set(asked) == {Lane.BATCH}  # what finds room at once does not ask
        asked.clear()
        with contextlib.suppress(OutcomeUnknownError):
            await client.capture(row.syssn, 777, idempotency_key="by hand")
        assert set(asked) == {Lane.INTERACTIVE}


async def test_the_own_budget_is_waited_for(qfpay_gateway: Gateway) -> None:
    """However small it is against the deadline of a row: no row is given up for it."""
    settings = {"requests_per_second": 20, "requests_per_minute": 1_000, "deadline_s": 0.5}
    async with client_of(qfpay_gateway, **settings) as client:
        rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 45)
        assert words(await ran(client, rows)) == {"executed": 45}
    arrivals = [each.at for each in qfpay_gateway.requests]
    # one request's way is short, so what is counted at sending shows at arrival
    assert all((arrivals[i + 20] - arrivals[i]).total_seconds() > 0.9 for i in range(25))


async def test_bad_rows_stop_nobody(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Declined, refused and invalid rows among good ones."""
    rows: list[Any] = list(captures(qfpay_gateway, holds_of(qfpay_gateway), 20))
    rows[3:3] = [{"idempotency_key": "x"}, None, BatchRow("far", "S-UNKNOWN", 1)]
    qfpay_gateway.faults.add("respcd", operation="capture", amount=1_005, code="1201")
    assert words(await ran(client, rows)) == {"executed": 19, "declined": 1, "invalid": 2, "refused": 1}


# ------------------------------------------------------------------------------------------------ accounts


async def test_each_account_has_its_own_money_and_budget(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """Rows name their account; a small budget of one holds up nobody else; an unknown one is invalid."""
    async with Gateway() as other, client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        slow = {**QUICK, "requests_per_second": 4, "requests_per_minute": 200}
        credentials = Credentials(other.app_code, other.client_key, account="second")
        async with PreauthClient(
            credentials, base_url=other.url, ledger=client._ledger, settings=Settings(**slow)
        ) as second:
            mine, theirs = holds_of(qfpay_gateway, 40), holds_of(other, 6)
            rows = [registering(other, hold, f"key-{i}", 1_000, account="b") for i, hold in enumerate(theirs)]
            rows += [registering(qfpay_gateway, hold, f"key-{i}", 1_000) for i, hold in enumerate(mine)]
            rows += [BatchRow("nobody", mine[0], 5, account="c")]
            outcomes = await ran(client, rows, accounts={"a": client, "b": second}, concurrency=2)
    assert words(outcomes) == {"executed": 46, "invalid": 1}
    order = [each.row.account for each in outcomes if each.row is not None]
    assert order[-2:] == ["b", "b"]  # the second's first four went at once, and all of ours before the other two
    assert (executed(qfpay_gateway).total(), executed(other).total()) == (40, 6)
    (problem,) = next(each.problems for each in outcomes if each.outcome == "invalid")
    assert (problem.column, "must be one of" in problem.reason) == ("account", True)


@pytest.mark.parametrize(
    "how", [{"concurrency": 0}, {"concurrency": 1_001}, {"concurrency": 1.5}, {"deadline_s": 0}, {"patience_s": -1}]
)
async def test_wrong_arguments_are_refused_at_once(client: PreauthClient, how: dict[str, Any]) -> None:
    """Before any row is looked at."""
    with pytest.raises(InvalidRequestError):
        client.capture_many([], **how)


async def test_faults_of_every_kind(qfpay_gateway: Gateway, tmp_path: Path, soon: None) -> None:
    """Run under faults, again and again: no row moves twice, and every row says what the gateway's books say."""
    url = sqlite_url(tmp_path)
    rows = captures(qfpay_gateway, holds_of(qfpay_gateway), 120)
    qfpay_gateway.faults = Faults.random(3, 0.3)
    for _ in range(4):
        async with client_of(qfpay_gateway, url, capture_reference=True) as client:
            await ran(client, rows)
    qfpay_gateway.faults = Faults()
    qfpay_gateway.run_late()
    qfpay_gateway.settle_pending()
    async with client_of(qfpay_gateway, url, capture_reference=True) as client:
        outcomes = await ran(client, rows)
    assert all(count == 1 for count in executed(qfpay_gateway).values())
    assert qfpay_gateway.books.audit() == []
    done = {(each.syssn, each.amount) for each in outcomes if each.outcome in ("executed", "replayed")}
    assert done == {(syssn, amount) for _, syssn, amount in executed(qfpay_gateway)}
    assert set(words(outcomes)) <= {"executed", "replayed", "declined", "in_doubt"}  # what never came is in doubt
