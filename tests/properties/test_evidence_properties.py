"""Evidence: what is said about one syssn never ends an entry that knows its own, in any order and number."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qfpay_preauth._models import Judgement
from qfpay_preauth._signing import Signer
from qfpay_preauth._wire import gateway_time
from qfpay_preauth.errors import InvalidSignatureError
from qfpay_preauth.ledger.memory import MemoryLedger
from qfpay_preauth.notifications import verified
from qfpay_preauth.testing._ledger_kit import HOLD, Scene, moment
from tests.evidence.pure import doubt, ends, known, listing, notice, notified, row, seen


@pytest.mark.parametrize("by", ["row", "notice"])
def test_a_known_syssn_is_the_only_one(by: str) -> None:
    """An entry whose pending answer named its syssn is not ended by another one of the same amount (a portal's)."""
    entry = doubt(result_syssn="S1")
    if by == "row":
        found = seen(listing(row(syssn="S2")), known(entry))
        assert ends(found) == {}
        assert [each.syssn for each, _ in found.foreign] == ["S2"]
    else:
        assert notified(notice(syssn="S2"), known(entry)) is None
        own = notified(notice(syssn="S1"), known(entry))
        assert own is not None
        assert (own.judgement, own.result_syssn) == (Judgement.EXECUTED, "S1")


HOW = settings(max_examples=150, deadline=None, database=None, derandomize=True)
KEY = "a key"
AMOUNTS = (100, 200, 300)
_notices = st.lists(st.sampled_from([*AMOUNTS, 999]), max_size=8)


async def _end(order: Sequence[tuple[str, int]]) -> list[object]:
    """A hold whose captures are lost and notified of in this order, and all that is known in the end."""
    ledger = MemoryLedger()
    await ledger.open("sandbox")
    s = Scene(ledger)
    await s.hold(1_000)
    for amount in AMOUNTS:
        await s.capture(f"k{amount}", amount)
    for what, amount in order:
        if what == "lost":
            await s.end(await s.entry(f"k{amount}"), Judgement.IN_DOUBT)
        else:
            body = json.dumps(_fields(amount)).encode()
            told = verified(body, {"X-QF-SIGN": Signer(KEY).sign_body(body)}, [Signer(KEY)])
            await ledger.notice(s.account, told, moment(10))
    entries = [await s.entry(f"k{amount}") for amount in AMOUNTS]
    left = sorted(str(each.syssn) for each in await ledger.sweep_notices(s.account))
    return [[(each.state, each.result_syssn) for each in entries], await s.sums(), left]


def _fields(amount: int) -> dict[str, str]:
    at = gateway_time(moment(2))
    names = ("txamt", "txcurrcd", "syssn", "orig_syssn", "respcd", "notify_type", "sysdtm")
    values = (str(amount), "HKD", f"S{amount}", HOLD, "0000", "payment", at)
    return dict(zip(names, values, strict=True))


@HOW
@given(st.permutations([("lost", amount) for amount in AMOUNTS]), _notices, st.data())
def test_notifications_in_any_order_and_number(
    lost: list[tuple[str, int]], told: list[int], data: st.DataObject
) -> None:
    """I16: before, between or after the doubts, once or often: the end is the same as of each once, afterwards."""
    order = data.draw(st.permutations([*lost, *(("told", amount) for amount in told)]))
    plain = [*(("lost", amount) for amount in AMOUNTS), *(("told", amount) for amount in sorted(set(told)))]
    assert asyncio.run(_end(order)) == asyncio.run(_end(plain))


@HOW
@given(st.integers(0, 400), st.integers(0, 255), st.text(st.characters(), max_size=40))
def test_a_forged_notification_is_nobodys(position: int, byte: int, signature: str) -> None:
    """I16: one byte changed, or another signature: refused as a whole, whatever key of ours is tried."""
    body = json.dumps(_fields(100)).encode()
    position %= len(body)
    forged = body[:position] + bytes([byte]) + body[position + 1 :]
    keys = [Signer(KEY), Signer("previous")]
    genuine = Signer(KEY).sign_body(body)
    for raw, said in ((forged, genuine), (body, signature)):
        if raw == body and said.strip().upper() == genuine:
            continue
        with pytest.raises(InvalidSignatureError):
            verified(raw, {"x-qf-sign": said}, keys)
