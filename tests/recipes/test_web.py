"""Both web recipes on real ports, asked by real callers: what each is told, and that nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import random
import signal
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from attrs import evolve

from qfpay_preauth import errors
from qfpay_preauth.errors import Outcome, PreauthError
from qfpay_preauth.testing import Gateway, Rule
from tests.evidence.kit import writes
from tests.recipes.http_answers import failed
from tests.recipes.web import (
    RECIPES,
    Shop,
    ask_to_stop,
    check_books,
    environ,
    free_port,
    hang_up,
    process,
    served,
)

EACH = pytest.mark.parametrize("recipe", RECIPES)


@pytest.fixture
async def shop(
    recipe: str, qfpay_gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Shop]:
    """One recipe, served in this process."""
    for name, value in environ(qfpay_gateway, tmp_path).items():
        monkeypatch.setenv(name, value)
    async with served(recipe, qfpay_gateway) as shop:
        yield shop


@EACH
async def test_a_capture_and_its_replay(shop: Shop, tmp_path: Path) -> None:
    """200 with the capture's syssn; the same key again says the same and is marked as a replay."""
    syssn = await shop.hold()
    first, again = [await shop.capture(syssn, 20_000) for _ in range(2)]
    assert (first.status, first.body["outcome"], first.body["amount"]) == (200, "happened", 20_000)
    assert (again.status, again.body) == (200, first.body)
    replayed = [reply.headers.get("Idempotent-Replayed") for reply in (first, again)]
    assert replayed == [None, "true"]
    await check_books(shop.gateway, tmp_path, {syssn: 20_000})


@EACH
async def test_what_callers_do_wrong(shop: Shop) -> None:
    """Each wrong request has its status and its advice, and sends nothing."""
    syssn = await shop.hold()
    await shop.capture(syssn, 20_000)
    sent = writes(shop.gateway)
    cases = [
        (400, await shop.capture(syssn, 1_000, None)),
        (400, await shop.capture(syssn, 1_000, "")),
        (400, await shop.capture(syssn, 1_000, "a" * 500)),
        (400, await shop.capture(syssn, 0, "zero")),
        (422, await shop.capture(syssn, 1_000)),
        (404, await shop.capture("20260101", 1_000, "nowhere")),
        (409, await shop.capture(syssn, 30_001, "too much")),
    ]
    assert [reply.status for _, reply in cases] == [status for status, _ in cases]
    for _, reply in cases:
        assert (reply.body["outcome"], bool(reply.body["advice"])) == ("nothing_happened", True)
        assert "Retry-After" not in reply.headers
    assert writes(shop.gateway) == sent


@EACH
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"amount": "200"}', b'{"amount": 2.5}', b'{"amount": true}', b"{}"]
)
async def test_odd_bodies(shop: Shop, body: bytes) -> None:
    """A body that is no JSON object with an int amount is a 4xx, and sends nothing."""
    syssn = await shop.hold()
    url = f"{shop.url}/authorizations/{syssn}/captures"
    headers = {"Idempotency-Key": "k", "Content-Type": "application/json"}
    async with shop.session.post(url, data=body, headers=headers) as response:
        assert response.status in (400, 422)
    assert writes(shop.gateway) == 0


@EACH
async def test_what_the_gateway_says(shop: Shop) -> None:
    """A refusal is 402, "not now" and the rate limit 503 with Retry-After, a lost answer 202 with Retry-After."""
    cases = [
        (Rule(kind="respcd", code="1201"), 402, None),
        (Rule(kind="respcd", code="1269"), 503, "1800"),
        (Rule(kind="respcd", code="1108"), 503, "300"),
        (Rule(kind="drop_after"), 202, "30"),
        (Rule(kind="status_before", status=502), 202, "30"),
        (Rule(kind="rate_limited", times=None, retry_after="70"), 503, "70"),  # the last: it parks the whole account
    ]
    for rule, status, again_s in cases:
        syssn = await shop.hold()
        shop.gateway.faults.clear()
        shop.gateway.faults.add(evolve(rule, operation="capture"))
        reply = await shop.capture(syssn, 20_000, f"key-{syssn}")
        assert (reply.status, reply.headers.get("Retry-After")) == (status, again_s), rule
        assert reply.body["outcome"] == ("unknown" if status == 202 else "nothing_happened")


@EACH
async def test_a_gateway_out_of_reach(shop: Shop, tmp_path: Path) -> None:
    """503 with Retry-After while nothing can be sent; the same key captures once the gateway is back."""
    syssn = await shop.hold()
    await shop.gateway.refuse_connections()
    reply = await shop.capture(syssn, 20_000)
    assert (reply.status, reply.body["error"], reply.headers["Retry-After"]) == (503, "NotSentError", "2")
    await shop.gateway.accept_connections()
    assert (await shop.capture(syssn, 20_000)).status == 200
    await check_books(shop.gateway, tmp_path, {syssn: 20_000})


@EACH
async def test_a_doubt_ends_by_the_reconciler(shop: Shop, tmp_path: Path) -> None:
    """After a lost answer the background reconciler finds the row: the caller that asks again gets its 200."""
    syssn = await shop.hold()
    shop.gateway.faults.add("drop_after", operation="capture")
    assert (await shop.capture(syssn, 20_000)).status == 202
    assert (await shop.captured(syssn, 20_000, "order-1/parcel-1")).headers["Idempotent-Replayed"] == "true"
    await check_books(shop.gateway, tmp_path, {syssn: 20_000})


@EACH
async def test_a_notification_ends_a_doubt(shop: Shop, tmp_path: Path) -> None:
    """QFPay's own notification, posted to the recipe's endpoint, is answered SUCCESS and ends the doubt."""
    syssn = await shop.hold()
    shop.gateway.notify_url = f"{shop.url}/qfpay/notify"
    shop.gateway.faults.add("drop_after", operation="capture")
    shop.gateway.faults.add("status_before", operation="query", times=None)  # no enquiry helps
    assert (await shop.capture(syssn, 20_000)).status == 202
    await shop.gateway.deliver_due()
    assert [(each.status, each.acknowledged) for each in shop.gateway.deliveries[-1:]] == [(200, True)]
    assert (await shop.capture(syssn, 20_000)).status == 200
    await check_books(shop.gateway, tmp_path, {syssn: 20_000})


@EACH
async def test_a_forged_notification(shop: Shop) -> None:
    """401, and the doubt stays."""
    syssn = await shop.hold()
    shop.gateway.faults.add("drop_after", operation="capture")
    shop.gateway.faults.add("status_before", operation="query", times=None)
    await shop.capture(syssn, 20_000)
    headers = {"X-QF-SIGN": "0" * 32, "Content-Type": "application/json"}
    async with shop.session.post(f"{shop.url}/qfpay/notify", data=b"{}", headers=headers) as response:
        assert response.status == 401
    assert (await shop.capture(syssn, 20_000)).status == 202


@EACH
async def test_readiness(shop: Shop, tmp_path: Path) -> None:
    """200 with the oldest doubt's age, doubts or not; 503 while the ledger does not answer."""
    syssn = await shop.hold()
    assert await shop.ready() == (200, {"oldest_doubt_s": 0.0})
    shop.gateway.faults.add("drop_before", operation="capture")
    await shop.capture(syssn, 20_000)
    status, body = await shop.ready()
    assert (status, body["oldest_doubt_s"] > 0) == (200, True)
    with sqlite3.connect(tmp_path / "ledger.db", isolation_level=None) as elsewhere:
        elsewhere.execute("ALTER TABLE entries RENAME TO elsewhere")
        assert (await shop.ready())[0] == 503
        elsewhere.execute("ALTER TABLE elsewhere RENAME TO entries")
    elsewhere.close()
    assert (await shop.ready())[0] == 200


# ------------------------------------------------------------------------------------------------ callers that leave


@pytest.mark.parametrize(("recipe", "cancelling"), [("fastapi", False), ("aiohttp", False), ("aiohttp", True)])
async def test_callers_that_hang_up(
    qfpay_gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str, cancelling: bool
) -> None:
    """Forty callers leave at random moments, by FIN or RST, some in their own body, some answers lost too: whoever asks
    again with the same key gets its capture, and each was taken exactly once."""
    for name, value in environ(qfpay_gateway, tmp_path).items():
        monkeypatch.setenv(name, value)
    luck = random.Random(7)
    qfpay_gateway.faults.add("drop_after", operation="capture", after=10, times=6)
    qfpay_gateway.faults.add("delay", operation="capture", times=None, seconds=0.02)
    async with served(recipe, qfpay_gateway, handler_cancellation=cancelling) as shop:
        syssns = [await shop.hold() for _ in range(40)]
        leavers = [
            hang_up(
                shop,
                syssn,
                1_000 + place,
                f"key-{place}",
                after_s=luck.uniform(0, 0.06),
                reset=luck.random() < 0.5,
                cut=luck.choice([0, 0, 0, 0, 3]),
            )
            for place, syssn in enumerate(syssns)
        ]
        await asyncio.gather(*leavers)
        again = [shop.captured(syssn, 1_000 + place, f"key-{place}") for place, syssn in enumerate(syssns)]
        replies = await asyncio.gather(*again)
    assert [reply.body["amount"] for reply in replies] == [1_000 + place for place in range(40)]
    assert 0 < sum("Idempotent-Replayed" in reply.headers for reply in replies) < 40
    await check_books(qfpay_gateway, tmp_path, {syssn: 1_000 + place for place, syssn in enumerate(syssns)})


@EACH
async def test_nobody_asks_again(shop: Shop, tmp_path: Path) -> None:
    """A caller that leaves in the middle and never comes back: the capture is concluded all the same."""
    syssn = await shop.hold()
    shop.gateway.faults.add("hang_after", operation="capture")
    leaving = asyncio.create_task(shop.capture(syssn, 20_000))
    await shop.gateway.wait_hanging()
    leaving.cancel()
    await asyncio.wait((leaving,))
    shop.gateway.release()
    assert (await shop.captured(syssn, 20_000, "order-1/parcel-1")).headers["Idempotent-Replayed"] == "true"
    await check_books(shop.gateway, tmp_path, {syssn: 20_000})
    assert writes(shop.gateway) == 1


# ------------------------------------------------------------------------------------------------ processes that stop


@EACH
async def test_stopped_in_the_middle(recipe: str, qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """SIGTERM while a capture is on its way: its caller still gets the 200, the process ends, the next one replays."""
    given, port, log = environ(qfpay_gateway, tmp_path), free_port(), tmp_path / "log.txt"
    qfpay_gateway.faults.add("hang_after", operation="capture")
    async with process(recipe, qfpay_gateway, given, port, log) as (shop, child):
        syssn = await shop.hold()
        waiting = asyncio.create_task(shop.capture(syssn, 20_000))
        await qfpay_gateway.wait_hanging()
        stopping = asyncio.create_task(ask_to_stop(child))
        await _refuses(shop)
        qfpay_gateway.release()
        reply = await waiting
        assert (reply.status, reply.body["amount"]) == (200, 20_000)
        assert await stopping in (0, -signal.SIGTERM), log.read_text()
    assert "Traceback" not in log.read_text()
    await check_books(qfpay_gateway, tmp_path, {syssn: 20_000})
    async with process(recipe, qfpay_gateway, given, port, log) as (shop, _):
        assert (await shop.capture(syssn, 20_000)).headers["Idempotent-Replayed"] == "true"
    assert writes(qfpay_gateway) == 1


async def _refuses(shop: Shop) -> None:
    """Return once the server takes no new connections: it is stopping."""
    host, port = shop.url.removeprefix("http://").split(":")
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("recipe", "how"), [("fastapi", signal.SIGKILL), ("aiohttp", signal.SIGTERM)])
async def test_no_answer_and_no_process(
    recipe: str, how: signal.Signals, qfpay_gateway: Gateway, tmp_path: Path
) -> None:
    """The gateway never answers and the process is stopped or killed: the next one on the ledger finds what happened,
    and says 202 until then; nothing is sent a second time."""
    times = {"QFPAY_DEADLINE_S": "0.6", "QFPAY_TIMEOUT_TOTAL_S": "0.6"}
    given, port, log = environ(qfpay_gateway, tmp_path, **times), free_port(), tmp_path / "log.txt"
    qfpay_gateway.faults.add("hang_after", operation="capture")
    async with process(recipe, qfpay_gateway, given, port, log) as (shop, child):
        syssn = await shop.hold()
        waiting = asyncio.create_task(shop.capture(syssn, 20_000))
        await qfpay_gateway.wait_hanging()
        child.send_signal(how)
        await asyncio.wait((waiting,))
        assert waiting.exception() is not None or waiting.result().status == 202
        await asyncio.wait_for(child.wait(), 20)
    async with process(recipe, qfpay_gateway, given, port, log) as (shop, _):
        assert (await shop.captured(syssn, 20_000, "order-1/parcel-1")).status == 200
    await check_books(qfpay_gateway, tmp_path, {syssn: 20_000})
    assert writes(qfpay_gateway) == 1


# ------------------------------------------------------------------------------------------------ the table


def _kinds(kind: type[PreauthError] = PreauthError) -> list[type[PreauthError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kinds(below))]


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("outcome", Outcome)
def test_every_error_has_an_answer(kind: type[PreauthError], outcome: Outcome) -> None:
    """Money first: 200 where it moved, 202 where nobody knows, an error status only where nothing happened."""
    status, body, headers = failed(kind("text", outcome=outcome))
    if outcome is Outcome.HAPPENED:
        assert status == 200
    elif outcome is Outcome.UNKNOWN:
        assert (status, "Retry-After" in headers) == (202, True)
    else:
        assert 400 <= status < 600
        assert ("Retry-After" in headers) >= (status == 503)
    assert (body["outcome"], body["error"]) == (outcome.value, kind.__name__)


def test_a_yes_that_could_not_be_recorded() -> None:
    """The ledger failed after the gateway's yes: the caller gets its 200 with the capture."""
    from qfpay_preauth import Capture

    result = Capture("9", "1", 500, "HKD", "k")
    error = errors.LedgerUnavailableError("disk full", result=result, outcome=Outcome.HAPPENED)
    assert failed(error)[:2] == (200, {"outcome": "happened", "syssn": "9", "amount": 500, "currency": "HKD"})


@pytest.mark.parametrize(("wait_s", "again"), [(0.2, "1"), (7.1, "8"), (None, "5")])
def test_the_wait_is_in_whole_seconds(wait_s: float | None, again: str) -> None:
    """Retry-After is a whole number of seconds, never less than the wait."""
    assert failed(errors.RateLimitedError("x", retry_after_s=wait_s))[2] == {"Retry-After": again}


def test_not_now_is_not_never() -> None:
    """A refusal that may pass later is 503 with a long wait; a final one is 402."""
    assert failed(errors.DeclinedError("x", retry_later=True))[0] == 503
    assert failed(errors.DeclinedError("x"))[0] == 402
