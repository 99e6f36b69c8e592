"""Every kind of fault: what the client sees, what the books say, and that it is counted."""

from __future__ import annotations

import asyncio
import errno
import json

import aiohttp
import pytest

from qfpay_preauth.testing import KINDS, NOTICE_KINDS, Gateway
from qfpay_preauth.testing._protocol import sign_body

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


def test_every_kind_is_known_to_the_spoilers() -> None:
    """The tables of kinds and the code that makes them agree."""
    from qfpay_preauth.testing._forge import _FORGERS
    from qfpay_preauth.testing._spoil import _SPOILERS

    assert set(_SPOILERS) == set(KINDS)
    assert {*_FORGERS, "notice_reordered"} == set(NOTICE_KINDS)
