"""Every kind of fault: what the client sees, what the books say, and that it is counted."""

from __future__ import annotations

import asyncio
import errno
import json
from typing import Any

import aiohttp
import pytest

from qfpay_preauth.testing import KINDS, QUICK_KINDS, Faults, Gateway, Rule
from qfpay_preauth.testing._protocol import sign_body

from .conftest import Clock
from .kit import Merchant


async def _status(merchant: Merchant, syssn: str) -> tuple[int, bytes, dict[str, str]]:
    async with merchant.post("capture", syssn=syssn, txamt="100") as answer:
        return answer.status, await answer.read(), dict(answer.headers)


def _done(gateway: Gateway, syssn: str) -> int:
    """How often 100 was captured."""
    assert gateway.books.audit() == []
    return gateway.books.totals(syssn).captured // 100


@pytest.mark.parametrize(("kind", "done"), [("drop_before", 0), ("drop_after", 1)])
async def test_dropped(gateway: Gateway, merchant: Merchant, kind: str, done: int) -> None:
    """The connection ends without a byte; the next request is answered again."""
    syssn = gateway.hold(1_000)
    gateway.faults.add(kind)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await merchant.capture(syssn, 100)
    assert _done(gateway, syssn) == done
    assert (await merchant.capture(syssn, 100))["respcd"] == "0000"
    assert gateway.faults.hits == {kind: 1}
    assert [request.fault for request in gateway.requests] == [kind, None]


@pytest.mark.parametrize(("kind", "done"), [("reset_before", 0), ("reset_after", 1)])
async def test_reset(gateway: Gateway, merchant: Merchant, kind: str, done: int) -> None:
    """The connection is reset: the client's system reports ECONNRESET."""
    syssn = gateway.hold(1_000)
    gateway.faults.add(kind)
    with pytest.raises(aiohttp.ClientOSError) as caught:
        await merchant.capture(syssn, 100)
    assert caught.value.errno == errno.ECONNRESET
    assert _done(gateway, syssn) == done
    assert gateway.faults.hits[kind] == 1


@pytest.mark.parametrize(("kind", "done"), [("hang_before", 0), ("hang_after", 1), ("late_hang", 0)])
async def test_hanging_until_released(gateway: Gateway, merchant: Merchant, kind: str, done: int) -> None:
    """No answer comes; a release sends the one there is or closes the connection."""
    syssn = gateway.hold(1_000)
    gateway.faults.add(kind)
    asking = asyncio.create_task(merchant.capture(syssn, 100))
    await gateway.wait_hanging()
    assert not asking.done()
    assert _done(gateway, syssn) == done
    assert gateway.release() == 1
    if done:
        assert (await asking)["respcd"] == "0000"
    else:
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await asking
    assert gateway.run_late() == (kind == "late_hang")
    assert _done(gateway, syssn) == (kind != "hang_before")


@pytest.mark.parametrize("retry_after", [None, "30", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_rate_limited(gateway: Gateway, merchant: Merchant, retry_after: str | None) -> None:
    """429 before processing, with whatever Retry-After text is wanted."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("rate_limited", retry_after=retry_after)
    status, _, headers = await _status(merchant, syssn)
    assert (status, headers.get("Retry-After")) == (429, retry_after)
    assert _done(gateway, syssn) == 0


@pytest.mark.parametrize(("kind", "done"), [("status_before", 0), ("status_after", 1)])
@pytest.mark.parametrize("wanted", [302, 404, 500, 502, 503, 504, 599])
async def test_any_status(gateway: Gateway, merchant: Merchant, kind: str, done: int, wanted: int) -> None:
    """A web server's error page instead of the gateway's answer, executed or not."""
    syssn = gateway.hold(1_000)
    gateway.faults.add(kind, status=wanted, text="<h1>oops</h1>")
    assert (await _status(merchant, syssn))[:2] == (wanted, b"<h1>oops</h1>")
    assert _done(gateway, syssn) == done


@pytest.mark.parametrize("executed", [False, True])
async def test_any_respcd(gateway: Gateway, merchant: Merchant, executed: bool) -> None:
    """Any code under HTTP 200; an executed one still carries the syssn."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("respcd", code="1298", executed=executed)
    answer = await merchant.capture(syssn, 100)
    assert (answer["respcd"], "syssn" in answer) == ("1298", executed)
    assert _done(gateway, syssn) == executed


async def test_pending_until_settled(gateway: Gateway, merchant: Merchant) -> None:
    """1143 with a syssn, a pending row, the money claimed but not taken; then executed."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("pending")
    answer = await merchant.capture(syssn, 800)
    assert answer["respcd"] == "1143"
    row = (await merchant.rows(syssn=answer["syssn"]))[0]
    assert (row["respcd"], row["paydtm"]) == ("1143", "")
    totals = gateway.books.totals(syssn)
    assert (totals.captured, totals.pending) == (0, 800)
    assert (await merchant.capture(syssn, 300))["respcd"] == "1266"
    assert (await merchant.refund(answer["syssn"], 1))["respcd"] == "1261"
    assert gateway.settle_pending() == 1
    assert gateway.books.executions()[0].syssn == answer["syssn"]
    assert (await merchant.rows(syssn=answer["syssn"]))[0]["respcd"] == "0000"
    assert gateway.settle_pending() == 0


@pytest.mark.parametrize("operation", ["capture", "unfreeze", "refund"])
async def test_pending_then_refused(gateway: Gateway, merchant: Merchant, operation: str) -> None:
    """A refusal in the end gives the claim back and shows in the row; the same can then be done again."""
    syssn = gateway.hold(1_000)
    capture = (await merchant.capture(syssn, 400))["syssn"]
    ask: dict[str, Any] = {
        "capture": lambda: merchant.capture(syssn, 600),
        "unfreeze": lambda: merchant.unfreeze(syssn, 600),
        "refund": lambda: merchant.refund(capture, 400, f"R{len(gateway.requests)}"),
    }
    gateway.faults.add("pending", operation=operation, then="1205")
    pending = (await ask[operation]())["syssn"]
    assert (await ask[operation]())["respcd"] != "0000"
    gateway.settle_pending()
    assert len(gateway.books.executions()) == 1
    assert (await merchant.rows(syssn=pending))[0]["respcd"] == "1205"
    assert (await ask[operation]())["respcd"] == "0000"
    assert gateway.books.audit() == []


async def test_pending_settles_by_time(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """After its seconds it is executed by itself, at the moment it was due."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("pending", seconds=5)
    await merchant.capture(syssn, 100)
    due = clock.now.timestamp() + 5
    clock.move(seconds=4.9)
    assert _done(gateway, syssn) == 0
    clock.move(seconds=60)
    assert _done(gateway, syssn) == 1
    at = gateway.books.executions()[0].at
    assert at is not None
    assert at.timestamp() == due


async def test_pending_refuses_what_is_wrong(gateway: Gateway, merchant: Merchant) -> None:
    """A request that breaks a rule is refused at once; an enquiry can be pending too."""
    gateway.faults.add("pending", times=2)
    assert (await merchant.capture(gateway.hold(100), 101))["respcd"] == "1266"
    assert await merchant.code("query") == "1143"
    assert gateway.settle_pending() == 0


@pytest.mark.parametrize("keep", [0, 5, None, 10**6])
async def test_cut(gateway: Gateway, merchant: Merchant, keep: int | None) -> None:
    """Executed, but fewer bytes come than Content-Length promised."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("cut", keep=keep)
    async with merchant.post("capture", syssn=syssn, txamt="100") as answer:
        assert answer.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()
    assert _done(gateway, syssn) == 1


async def test_garbled(gateway: Gateway, merchant: Merchant) -> None:
    """Executed; status 200 with a body that is no JSON."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("garbled", text="busy")
    assert (await _status(merchant, syssn))[:2] == (200, b"busy")
    assert _done(gateway, syssn) == 1


async def test_huge(gateway: Gateway, merchant: Merchant) -> None:
    """Executed; the right answer in a body of exactly so many bytes."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("huge", size=3_000_000)
    _, body, _ = await _status(merchant, syssn)
    assert len(body) == 3_000_000
    assert json.loads(body)["respcd"] == "0000"
    assert _done(gateway, syssn) == 1


async def test_slow_and_delayed(gateway: Gateway, merchant: Merchant) -> None:
    """Executed; the right answer comes, in pieces or after a while."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("slow", pieces=4, seconds=0.001)
    gateway.faults.add("delay", seconds=0.02)
    loop = asyncio.get_running_loop()
    assert (await merchant.capture(syssn, 100))["respcd"] == "0000"
    before = loop.time()
    assert (await merchant.capture(syssn, 100))["respcd"] == "0000"
    assert loop.time() - before >= 0.019
    assert gateway.faults.hits == {"slow": 1, "delay": 1}


@pytest.mark.parametrize("status", [None, 302, 308])
async def test_redirect(gateway: Gateway, merchant: Merchant, status: int | None) -> None:
    """Not executed; sent elsewhere, by 307 unless told otherwise."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("redirect", status=status, location="http://other.example/")
    got, _, headers = await _status(merchant, syssn)
    assert (got, headers["Location"]) == (status or 307, "http://other.example/")
    assert _done(gateway, syssn) == 0


async def test_swapped(gateway: Gateway, merchant: Merchant) -> None:
    """Two captures are executed and each gets the other's answer."""
    first, second = gateway.hold(1_000), gateway.hold(1_000)
    gateway.faults.add("swapped", times=2)
    waiting = asyncio.create_task(merchant.capture(first, 100))
    await gateway.wait_hanging()
    other = await merchant.capture(second, 200)
    assert (other["orig_syssn"], other["txamt"]) == (first, "100")
    mine = await waiting
    assert (mine["orig_syssn"], mine["txamt"]) == (second, "200")
    assert [each.hold_syssn for each in gateway.books.executions()] == [first, second]


async def test_a_swap_without_partner_can_be_released(gateway: Gateway, merchant: Merchant) -> None:
    """The one that waits in vain is closed."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("swapped")
    waiting = asyncio.create_task(merchant.capture(syssn, 100))
    await gateway.wait_hanging()
    assert gateway.release() == 1
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await waiting


async def test_altered(gateway: Gateway, merchant: Merchant) -> None:
    """Executed; fields of the answer changed, removed or added, and rightly signed."""
    gateway.config.sign_answers = True
    syssn = gateway.hold(1_000)
    changes = {"txamt": "999", "orig_syssn": None, "cash_fee": 7}
    gateway.faults.add("altered", changes=changes)
    _, body, headers = await _status(merchant, syssn)
    answer = json.loads(body)
    assert (answer["txamt"], answer["cash_fee"]) == ("999", 7)
    assert "orig_syssn" not in answer
    assert headers["X-QF-SIGN"] == sign_body(body, gateway.client_key)
    assert _done(gateway, syssn) == 1


async def test_altered_rows(gateway: Gateway, merchant: Merchant) -> None:
    """An enquiry's rows can be changed, or all be missing."""
    gateway.hold(1_000)
    gateway.faults.add("altered", operation="query", rows=True, changes={"txamt": 5, "cancel": None})
    gateway.faults.add("altered", operation="/trade/v1/query", changes={"data": []})
    row = (await merchant.rows())[0]
    assert row["txamt"] == 5
    assert "cancel" not in row
    assert await merchant.rows() == []
    assert len(await merchant.rows()) == 1


async def test_missigned(gateway: Gateway, merchant: Merchant) -> None:
    """Executed; exactly one X-QF-SIGN, and it is wrong."""
    gateway.config.sign_answers = True
    gateway.faults.add("missigned")
    async with merchant.post("capture", syssn=gateway.hold(1_000), txamt="100") as answer:
        assert answer.headers.getall("X-QF-SIGN") == ["0" * 32]
    assert len(gateway.books.executions()) == 1


@pytest.mark.parametrize("status", [None, 502, 0])
async def test_late(gateway: Gateway, merchant: Merchant, clock: Clock, status: int | None) -> None:
    """An error now, the execution later: by time or on demand, under the rules of that moment."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("late", status=status, amount=100)
    gateway.faults.add("late", status=status, amount=200, seconds=30)
    for amount in (100, 200):
        try:
            async with merchant.post("capture", syssn=syssn, txamt=str(amount)) as answer:
                assert answer.status == (status or 504)
        except aiohttp.ServerDisconnectedError:
            assert status == 0
    assert gateway.books.executions() == ()
    assert gateway.run_late() == 2
    assert [each.amount for each in gateway.books.executions()] == [100, 200]
    gateway.faults.add("late", seconds=30, status=503)
    async with merchant.post("capture", syssn=syssn, txamt="701"):
        clock.move(seconds=31)
    assert len(gateway.books.executions()) == 2


async def test_late_by_time(gateway: Gateway, merchant: Merchant, clock: Clock) -> None:
    """When its time has come it is executed, whoever looks next."""
    syssn = gateway.hold(1_000)
    gateway.faults.add("late", seconds=30)
    await _status(merchant, syssn)
    clock.move(seconds=29)
    assert _done(gateway, syssn) == 0
    clock.move(seconds=1)
    assert _done(gateway, syssn) == 1
    assert gateway.run_late() == 0


async def test_rules_choose_their_requests(gateway: Gateway, merchant: Merchant) -> None:
    """By operation, syssn, amount and number; after some, for so many; the first rule that fits wins."""
    one, two = gateway.hold(1_000), gateway.hold(1_000)
    gateway.faults.add("respcd", operation="capture", syssn=two, amount=7, after=1, times=2, code="1145")
    gateway.faults.add("respcd", operation="refund", out_trade_no="R9", times=None, code="1204")
    seen = [(await merchant.capture(two, 7))["respcd"] for _ in range(4)]
    assert seen == ["0000", "1145", "1145", "0000"]
    assert (await merchant.capture(one, 7))["respcd"] == "0000"
    assert (await merchant.capture(two, 8))["respcd"] == "0000"
    capture = gateway.books.executions()[0].syssn
    assert [(await merchant.refund(capture, 1, f"R{n}"))["respcd"] for n in (8, 9, 9)] == [
        "0000",
        "1204",
        "1204",
    ]
    gateway.faults.clear()
    assert (await merchant.refund(capture, 1, "R9"))["respcd"] == "0000"
    assert gateway.faults.hits["respcd"] == 4


def _drawn(seed: int, rate: float = 0.5, **how: Any) -> list[Rule | None]:
    faults = Faults.random(seed, rate, **how)
    return [faults.pick("capture", "/trade/v1/authtrade", {}) for _ in range(400)]


def test_the_same_seed_gives_the_same_faults() -> None:
    """Reproducible by seed; the rate is about kept; every quick kind comes up."""
    assert _drawn(7) == _drawn(7)
    assert _drawn(7) != _drawn(8)
    struck = [rule for rule in _drawn(7) if rule is not None]
    assert 150 < len(struck) < 250
    assert {rule.kind for rule in struck} == set(QUICK_KINDS)
    assert {rule.http_status for rule in struck if rule.kind == "status_after"} > {500, 502}
    assert {rule.code for rule in struck if rule.kind == "respcd"} > {"1205", "1265"}


def test_random_faults_can_be_narrowed() -> None:
    """By kinds, by operation and by every field of a rule; rate 0 is none, rate 1 is all."""
    assert {rule.kind for rule in _drawn(7, 1.0, kinds=["cut"]) if rule} == {"cut"}
    assert not any(_drawn(7, 1.0, operation="refund"))
    assert not any(_drawn(7, 0.0))
    assert all(_drawn(7, 1.0))
    fixed = [rule for rule in _drawn(7, 1.0, kinds=["status_after"], status=418) if rule]
    assert {rule.status for rule in fixed} == {418}


def test_mistakes_in_faults_are_said_at_once() -> None:
    """Unknown kinds and impossible rates are errors."""
    with pytest.raises(ValueError, match="unknown kind of fault 'dorp_before'"):
        Rule(kind="dorp_before")
    with pytest.raises(ValueError, match="unknown kind"):
        Faults.random(1, 0.1, kinds=["?"])
    with pytest.raises(ValueError, match="between 0 and 1"):
        Faults.random(1, 1.1)


async def test_random_faults_never_unbalance_the_books(gateway: Gateway, merchant: Merchant) -> None:
    """A storm over capture, unfreeze and refund leaves sound books, and every hit is counted."""
    gateway.faults = Faults.random(11, 0.6)
    syssn = gateway.hold(5_000)
    for number in range(150):
        try:
            capture = (await merchant.capture(syssn, 50)).get("syssn", syssn)
            await merchant.refund(capture, 30, f"R{number}")
        except (aiohttp.ClientError, AssertionError, json.JSONDecodeError):
            continue
    gateway.run_late()
    gateway.settle_pending()
    assert gateway.books.audit() == []
    assert gateway.faults.hits.total() == sum(request.fault is not None for request in gateway.requests)


def test_every_kind_is_known_to_the_spoilers() -> None:
    """The table of kinds and the code that makes them agree."""
    from qfpay_preauth.testing._spoil import _SPOILERS

    assert set(_SPOILERS) == set(KINDS)
