"""`capture_many` against the simulator: what is done, what is done once, and what becomes of everything else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from qfpay_preauth import (
    Authorization,
    BatchOutcome,
    BatchRow,
    ConfigurationError,
    Credentials,
    CredentialsRejectedError,
    InvalidRequestError,
    LedgerUnavailableError,
    Operation,
    PreauthClient,
    PreauthError,
    RowOutcome,
    Settings,
)
from qfpay_preauth import _batch_teller as teller
from qfpay_preauth.ledger.memory import MemoryLedger
from qfpay_preauth.testing import Faults, Gateway
from tests.batch.kit import by_key, captures, executed, ran, registering, sent, words
from tests.client.kit import turns, until
from tests.evidence.kit import teach_words
from tests.support import QUICK, client_of, registered, sqlite_url


@pytest.fixture
async def client(qfpay_gateway: Gateway) -> AsyncIterator[PreauthClient]:
    """A quick client with a memory ledger."""
    async with client_of(qfpay_gateway) as client:
        yield client


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried again at once."""
    monkeypatch.setattr(teller, "_LOOK_FIRST_S", 0.001)


def _holds(gateway: Gateway, count: int = 8) -> list[str]:
    return [gateway.hold(500_000) for _ in range(count)]


async def _broken(client: PreauthClient, rows: Any, **how: Any) -> tuple[list[BatchOutcome], PreauthError]:
    found: list[BatchOutcome] = []
    try:
        async for outcome in client.capture_many(rows, **how):
            found.append(outcome)
    except PreauthError as error:
        return found, error
    raise AssertionError("it went on to the end")


# ------------------------------------------------------------------------------------------------ once


@pytest.mark.parametrize("ledger", ["memory", "sqlite"])
async def test_everything_is_done_once(qfpay_gateway: Gateway, tmp_path: Path, ledger: str) -> None:
    """Run, and run again in a new client: the same rows are replayed with the same results, and nothing is sent."""
    url = sqlite_url(tmp_path) if ledger == "sqlite" else "memory://"
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 100)
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
    (hold,) = _holds(qfpay_gateway, 1)
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
    hold, other = _holds(qfpay_gateway, 2)
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
    one, two = _holds(qfpay_gateway, 2)
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
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 40)
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
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 4)
    async with client_of(qfpay_gateway, url) as client:
        qfpay_gateway.faults.add("drop_after", operation="capture")
        await ran(client, rows[:1])
        qfpay_gateway.faults.add("status_before", operation="query", times=None, status=500)
        assert words(await ran(client, rows)) == {"in_doubt": 1, "executed": 3}
    assert executed(qfpay_gateway).total() == 4


async def test_a_twin_of_a_doubt_is_not_sent(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """It could not be told from the first by any evidence; once the doubt has ended, running again is right."""
    await teach_words(client, qfpay_gateway)
    (hold,) = _holds(qfpay_gateway, 1)
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
    one, two = _holds(qfpay_gateway, 2)
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
    (row,) = captures(qfpay_gateway, _holds(qfpay_gateway, 1), 1)
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
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 30)
    assert words(await ran(client, rows)) == {"executed": 30}
    assert executed(qfpay_gateway).total() == 30
    assert sent(qfpay_gateway) == 42


async def test_a_row_that_meets_429_again_and_again(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """More often than one call tries: the run tries it again, a bounded number of times."""
    rows = captures(qfpay_gateway, _holds(qfpay_gateway, 2), 2)
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
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 10)
    await qfpay_gateway.refuse_connections()
    outcomes = await ran(client, rows)
    assert words(outcomes) == {"not_sent": 10}
    entry = await client.entry("k0")
    assert entry is not None
    assert entry.attempt == 1 + teller.NOT_SENT_MAX
    await qfpay_gateway.accept_connections()
    assert words(await ran(client, rows)) == {"executed": 10}


async def test_the_own_budget_is_waited_for(qfpay_gateway: Gateway) -> None:
    """However small it is against the deadline of a row: no row is given up for it."""
    settings = {"requests_per_second": 20, "requests_per_minute": 1_000, "deadline_s": 0.05}
    async with client_of(qfpay_gateway, **settings) as client:
        rows = captures(qfpay_gateway, _holds(qfpay_gateway), 45)
        assert words(await ran(client, rows)) == {"executed": 45}
    arrivals = [each.at for each in qfpay_gateway.requests]
    # one request's way is short, so what is counted at sending shows at arrival
    assert all((arrivals[i + 20] - arrivals[i]).total_seconds() > 0.9 for i in range(25))


async def test_bad_rows_stop_nobody(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """Declined, refused and invalid rows among good ones."""
    rows: list[Any] = list(captures(qfpay_gateway, _holds(qfpay_gateway), 20))
    rows[3:3] = [{"idempotency_key": "x"}, None, BatchRow("far", "S-UNKNOWN", 1)]
    qfpay_gateway.faults.add("respcd", operation="capture", amount=1_005, code="1201")
    assert words(await ran(client, rows)) == {"executed": 19, "declined": 1, "invalid": 2, "refused": 1}


# ------------------------------------------------------------------------------------------------ stops


async def test_rejected_credentials_stop_everything(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """At the first rejection nothing further is sent; mended, the same rows run to their end."""
    url = sqlite_url(tmp_path)
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 200)
    qfpay_gateway.faults.add("respcd", operation="capture", code="1108", after=20, times=None)
    async with client_of(qfpay_gateway, url) as client:
        outcomes, error = await _broken(client, rows, concurrency=4)
    assert isinstance(error, CredentialsRejectedError)
    found = words(outcomes)
    assert found["executed"] == 20
    assert 1 <= found["declined"] <= 4
    assert sent(qfpay_gateway) <= 24
    qfpay_gateway.faults.clear()
    async with client_of(qfpay_gateway, url) as client:
        assert words(await ran(client, rows)) == {"replayed": 20, "executed": 180}


async def test_a_ledger_that_is_gone_stops_everything(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """Nothing is sent that could not be recorded."""
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 50)
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:

        async def pulled() -> AsyncIterator[BatchRow]:
            for number, row in enumerate(rows):
                if number == 10:
                    (tmp_path / "ledger.db").rename(tmp_path / "moved.db")
                yield row

        outcomes, error = await _broken(client, pulled(), concurrency=2)
    assert isinstance(error, LedgerUnavailableError)
    assert len(outcomes) <= 14
    assert sent(qfpay_gateway) <= 12


@pytest.mark.parametrize("holds", [40, 8])
async def test_a_stop_calls_off_what_waits_for_the_budget(qfpay_gateway: Gateway, holds: int) -> None:
    """Rows at the turnstile are not sent any more; one that was sent is waited for, and its outcome comes."""
    settings = {"requests_per_second": 3, "requests_per_minute": 4, "deadline_s": 60}
    stop = asyncio.Event()
    qfpay_gateway.faults.add("hang_after", operation="capture")
    async with client_of(qfpay_gateway, **settings) as client:
        rows = captures(qfpay_gateway, _holds(qfpay_gateway, holds), 40)
        running = asyncio.create_task(ran(client, rows, concurrency=8, stop=stop))
        await qfpay_gateway.wait_hanging()
        await until(lambda: sent(qfpay_gateway) == 3)
        stop.set()
        await turns(200)
        assert not running.done()
        qfpay_gateway.release()
        async with asyncio.timeout(5):  # not the minute that the budget would take
            outcomes = await running
    found = words(outcomes)
    assert found["executed"] == executed(qfpay_gateway).total() == sent(qfpay_gateway)
    assert 3 <= found["executed"] <= 4
    assert found["not_sent"] == len(outcomes) - found["executed"] >= 4
    assert len(outcomes) <= 12


class _SlowToRegister(MemoryLedger):
    """A ledger whose registrations wait."""

    def __init__(self) -> None:
        super().__init__()
        self.registering, self.go_on = asyncio.Event(), asyncio.Event()

    async def register(self, authorization: Authorization) -> Authorization:
        self.registering.set()
        await self.go_on.wait()
        return await super().register(authorization)


async def test_a_stop_while_a_hold_is_registered(qfpay_gateway: Gateway) -> None:
    """A row that had not come to its request yet does not send it any more."""
    stop, ledger = asyncio.Event(), _SlowToRegister()
    async with client_of(qfpay_gateway, ledger) as client:
        running = asyncio.create_task(ran(client, captures(qfpay_gateway, _holds(qfpay_gateway), 8), stop=stop))
        await ledger.registering.wait()
        stop.set()
        await turns(10)
        ledger.go_on.set()
        assert words(await running) == {"not_sent": 8}
    assert sent(qfpay_gateway) == 0


async def test_a_stop_ends_the_look_for_evidence(qfpay_gateway: Gateway) -> None:
    """A row whose answer was lost, and that would go on looking, is in doubt at once."""
    stop = asyncio.Event()
    async with client_of(qfpay_gateway, patience_s=60) as client:
        rows = captures(qfpay_gateway, _holds(qfpay_gateway), 1)
        qfpay_gateway.faults.add("drop_after", operation="capture")
        qfpay_gateway.faults.add("hang_before", operation="query", times=None)
        running = asyncio.create_task(ran(client, rows, stop=stop))
        await qfpay_gateway.wait_hanging()
        stop.set()
        async with asyncio.timeout(5):
            assert words(await running) == {"in_doubt": 1}


async def test_a_cancelled_loop_drains(client: PreauthClient, qfpay_gateway: Gateway) -> None:
    """What was sent runs to its end and is in the ledger; nothing else is begun."""
    qfpay_gateway.faults.add("hang_after", operation="capture", times=2)
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 50)
    running = asyncio.create_task(ran(client, rows, concurrency=2))
    await qfpay_gateway.wait_hanging(2)
    running.cancel()
    await turns(50)
    assert not running.done()
    qfpay_gateway.release()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sent(qfpay_gateway) == 2
    assert words(await ran(client, rows)) == {"replayed": 2, "executed": 48}


async def test_a_client_that_closes_ends_the_batch(qfpay_gateway: Gateway) -> None:
    """`aclose()` ends the workers; who waits for outcomes is told, and no task is left."""
    client = client_of(qfpay_gateway)
    await client.__aenter__()
    qfpay_gateway.faults.add("hang_after", operation="capture", times=2)
    running = asyncio.create_task(_broken(client, captures(qfpay_gateway, _holds(qfpay_gateway), 50), concurrency=2))
    await qfpay_gateway.wait_hanging(2)
    closing = asyncio.create_task(client.aclose())
    await turns(20)
    qfpay_gateway.release()
    await closing
    _, error = await running
    assert isinstance(error, ConfigurationError)
    assert sent(qfpay_gateway) == 2


async def test_a_loop_left_and_never_closed_leaves_no_task(qfpay_gateway: Gateway) -> None:
    """A generator that somebody keeps and forgets ends with its client."""
    async with client_of(qfpay_gateway) as client:
        outcomes = client.capture_many(captures(qfpay_gateway, _holds(qfpay_gateway), 50), concurrency=3)
        await anext(outcomes)
    assert len([each for each in asyncio.all_tasks() if "_work" in repr(each.get_coro())]) == 0
    await outcomes.aclose()


# ------------------------------------------------------------------------------------------------ accounts


async def test_each_account_has_its_own_money_and_budget(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """Rows name their account; a small budget of one holds up nobody else; an unknown one is invalid."""
    async with Gateway() as other, client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        slow = {**QUICK, "requests_per_second": 4, "requests_per_minute": 200}
        credentials = Credentials(other.app_code, other.client_key, account="second")
        async with PreauthClient(
            credentials, base_url=other.url, ledger=client._ledger, settings=Settings(**slow)
        ) as second:
            mine, theirs = _holds(qfpay_gateway, 40), _holds(other, 6)
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
    rows = captures(qfpay_gateway, _holds(qfpay_gateway), 120)
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
