"""Notifications at the public face: before the answer, forged, replayed, in any order; what they may and may not do."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from qfpay_preauth import (
    Capture,
    Credentials,
    InvalidRequestError,
    InvalidSignatureError,
    LedgerUnavailableError,
    OutcomeUnknownError,
    PreauthClient,
    Settings,
    State,
)
from qfpay_preauth._signing import Signer
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import (
    HOLD,
    LOST,
    check_equal,
    entry_of,
    executed,
    kinds,
    lose,
    lose_refund,
    lose_unfreeze,
    queries,
    state,
    teach_words,
    until,
    writes,
)
from tests.support import QUICK, client_of, registered, sqlite_url

ROTATED = "ROTATED_KEY"


def signed(fields: object, key: str) -> tuple[bytes, dict[str, str]]:
    """A body of our own making, rightly signed."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return body, {"Content-Type": "application/json", "X-QF-SIGN": Signer(key).sign_body(body)}


def only(gateway: Gateway, syssn: str, kind: str = "capture") -> str:
    """The syssn of the only execution of a kind on a hold."""
    ((found, _),) = executed(gateway, syssn, kind)
    return found


@pytest.mark.parametrize("back_end", ["memory", "sqlite"])
async def test_five_times_before_the_answer(qfpay_gateway: Gateway, tmp_path: Path, back_end: str) -> None:
    """Five notices while the exchange still hangs, then the answer is lost: the stored notice ends the doubt."""
    ledger = "memory://" if back_end == "memory" else sqlite_url(tmp_path)
    async with client_of(qfpay_gateway, ledger, timeout_total_s=30) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("late_hang", operation="capture")
        call = asyncio.create_task(client.capture(syssn, LOST, idempotency_key="lost"))
        await qfpay_gateway.wait_hanging()
        qfpay_gateway.run_late()
        body, headers = qfpay_gateway.notification(only(qfpay_gateway, syssn))
        for _ in range(5):
            assert (await client.handle_notification(body, headers)).syssn == only(qfpay_gateway, syssn)
        assert (await client.balance(syssn)).held == LOST
        qfpay_gateway.release()
        capture = await call
        assert isinstance(capture, Capture)
        assert (capture.syssn, capture.confirmed_by) == (only(qfpay_gateway, syssn), "notification")
        await check_equal(client, qfpay_gateway, syssn)
        assert (await client.reconcile()).unexplained_notices == 0


async def test_before_a_right_answer(qfpay_gateway: Gateway) -> None:
    """A notice before the answer that does come: one capture, and the notice is explained."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("hang_after", operation="capture")
        call = asyncio.create_task(client.capture(syssn, LOST, idempotency_key="k"))
        await qfpay_gateway.wait_hanging()
        await client.handle_notification(*qfpay_gateway.notification(only(qfpay_gateway, syssn)))
        qfpay_gateway.release()
        assert (await call).confirmed_by == "answer"
        report = await client.reconcile()
        assert (report.unexplained_notices, report.discrepancies) == (0, ())
        await check_equal(client, qfpay_gateway, syssn)


@pytest.mark.parametrize("order", ["forwards", "backwards", "twice"])
async def test_all_three_kinds_in_any_order(qfpay_gateway: Gateway, order: str) -> None:
    """Notices end a lost capture, refund and unfreeze, in any order and number, without one enquiry needed."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        first = await client.capture(syssn, LOST, idempotency_key="c")
        await lose_refund(client, qfpay_gateway, str(first.syssn), 700, "r")
        await lose_unfreeze(client, qfpay_gateway, syssn, "u")
        notices = [qfpay_gateway.notification(each.syssn) for each in qfpay_gateway.books.executions(syssn)]
        if order != "forwards":
            notices.reverse()
        for notice in notices * (2 if order == "twice" else 1):
            await client.handle_notification(*notice)
        assert [await state(client, key) for key in "cru"] == [State.EXECUTED] * 3
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_refund_called_cancel(qfpay_gateway: Gateway) -> None:
    """Some accounts call a refund's notification `cancel`."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        first = await client.capture(syssn, LOST, idempotency_key="c")
        await lose_refund(client, qfpay_gateway, str(first.syssn), 700, "r")
        told = qfpay_gateway.notification(only(qfpay_gateway, syssn, "refund"), notify_type="cancel")
        assert (await client.handle_notification(*told)).kind == "cancel"
        assert await state(client, "r") is State.EXECUTED


@pytest.mark.parametrize("signature", [None, "", "0" * 32, "ÄÖÜ", "签名", "\udcff\udcfe", "x" * 10_000])
async def test_forged(qfpay_gateway: Gateway, signature: str | None) -> None:
    """A missing, wrong, non-ASCII or absurd signature is invalid, never a crash, and changes nothing."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        body, headers = qfpay_gateway.notification(only(qfpay_gateway, syssn))
        del headers["X-QF-SIGN"]
        if signature is not None:
            headers["X-QF-SIGN"] = signature
        with pytest.raises(InvalidSignatureError):
            await client.handle_notification(body, headers)
        assert await state(client) is State.IN_DOUBT
        assert (await client.reconcile()).unexplained_notices == 0


async def test_a_changed_body(qfpay_gateway: Gateway) -> None:
    """One byte changed, or the JSON re-serialised without its signature, is invalid."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        body, headers = qfpay_gateway.notification(only(qfpay_gateway, syssn))
        for other in (body + b" ", body[:-1], json.dumps(json.loads(body), indent=1).encode(), b""):
            with pytest.raises(InvalidSignatureError):
                await client.handle_notification(other, headers)
        assert await state(client) is State.IN_DOUBT


async def test_case_of_header_and_signature(qfpay_gateway: Gateway) -> None:
    """Neither the header's case nor that of the hex digits matters."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        body, headers = qfpay_gateway.notification(only(qfpay_gateway, syssn))
        signature = headers["X-QF-SIGN"].lower()
        assert (await client.handle_notification(body, {"x-qf-sign": signature})).amount == LOST
        assert (await client.handle_notification(body, {"X-Qf-SiGn": signature.swapcase()})).amount == LOST
        assert await state(client) is State.EXECUTED


async def test_previous_and_own_keys(qfpay_gateway: Gateway) -> None:
    """The current and the previous key are accepted; with a notification key the current client key is not."""
    body, headers = signed({"notify_type": "payment"}, ROTATED)
    key = qfpay_gateway.client_key
    for given, accepted in (
        ({"previous_client_key": ROTATED}, True),
        ({"notification_key": ROTATED}, True),
        ({"previous_notification_key": ROTATED}, True),
        ({}, False),
    ):
        credentials = Credentials(qfpay_gateway.app_code, key, **given)
        settings = Settings(**QUICK)
        async with PreauthClient(
            credentials, base_url=qfpay_gateway.url, ledger="memory://", settings=settings
        ) as client:
            if accepted:
                assert (await client.handle_notification(body, headers)).kind == "payment"
            else:
                with pytest.raises(InvalidSignatureError):
                    await client.handle_notification(body, headers)
            if "notification_key" in given:
                with pytest.raises(InvalidSignatureError):
                    await client.handle_notification(*signed({"notify_type": "payment"}, key))


async def test_replayed_for_an_equal_amount(qfpay_gateway: Gateway) -> None:
    """An old notice, replayed while another capture of the same amount is in doubt, does not end that one."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        first = await client.capture(syssn, LOST, idempotency_key="first")
        body, headers = qfpay_gateway.notification(str(first.syssn))
        await client.handle_notification(body, headers)
        await lose(client, qfpay_gateway, syssn, fault="drop_before")
        await client.handle_notification(body, headers)
        fields = json.loads(body)
        for again in (
            dict(reversed(fields.items())),
            {**fields, "new_field": "x"},
            {**fields, "sysdtm": _later(fields)},
        ):
            await client.handle_notification(*signed(again, qfpay_gateway.client_key))
        assert await state(client) is State.IN_DOUBT
        report = await client.reconcile()
        assert (report.unexplained_notices, await state(client)) == (0, State.IN_DOUBT)


def _later(fields: dict[str, str]) -> str:
    return fields["sysdtm"][:10] + " 23:59:59"


async def test_reserialised_and_signed(qfpay_gateway: Gateway) -> None:
    """The same notice in other bytes, rightly signed, five ways, ends one entry once."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        fields = json.loads(qfpay_gateway.notification(only(qfpay_gateway, syssn))[0])
        for indent in range(5):
            body = json.dumps(fields, indent=indent).encode()
            await client.handle_notification(*signed(body, qfpay_gateway.client_key))
        await check_equal(client, qfpay_gateway, syssn)
        assert (await client.reconcile()).unexplained_notices == 0


async def test_the_freeze_is_no_capture(qfpay_gateway: Gateway) -> None:
    """A `payment` notice that names the authorization's own syssn is the freeze, even of the capture's amount."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, LOST)
        await lose(client, qfpay_gateway, syssn, fault="drop_before")
        await client.handle_notification(*qfpay_gateway.notification(syssn))
        await client.handle_notification(*qfpay_gateway.notification(syssn, orig_syssn=syssn))
        assert await state(client) is State.IN_DOUBT
        assert (await client.reconcile()).unexplained_notices == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"notify_type": "brand_new"},
        {"notify_type": None},
        {"notify_type": "unfreeze"},
        {"txamt": "9999"},
        {"txamt": "ten"},
        {"txcurrcd": "USD"},
        {"orig_syssn": "20260101180500020000000001"},
        {"respcd": "1143"},
        {"sysdtm": "2020-01-01 00:00:00"},
        {"sysdtm": "yesterday"},
    ],
    ids=str,
)
async def test_notices_that_do_not_fit(qfpay_gateway: Gateway, changes: dict[str, str | None]) -> None:
    """A genuine notice that does not match is kept, ends nothing by itself, and frees no money."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, fault="late")
        qfpay_gateway.run_late()
        qfpay_gateway.config.link_rows = False  # the enquiry that the notice triggers shows nothing sure
        told = qfpay_gateway.notification(only(qfpay_gateway, syssn), **changes)
        await client.handle_notification(*told)
        assert await state(client) is State.IN_DOUBT
        assert (await client.balance(syssn)).in_doubt == LOST
        assert (await client.reconcile()).unexplained_notices == 1


async def test_unknown_fields_are_kept_without_cards(qfpay_gateway: Gateway) -> None:
    """Unknown fields are tolerated and kept; card numbers are not."""
    cards = {"cardcd": "4111111111111111", "n": 4111111111111111, "deep": [{"cardcd": "4111111111111111"}]}
    async with client_of(qfpay_gateway) as client:
        fields = {"notify_type": "x", "surprise": "a", **cards}
        notice = await client.handle_notification(*signed(fields, qfpay_gateway.client_key))
        assert (notice.kind, notice.raw["surprise"]) == ("x", "a")
        assert "411111111111111" not in repr(dict(notice.raw))


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff\xfe", b'"x"', b"[" * 20_000, b'{"a":1e9}'])
async def test_signed_but_odd(qfpay_gateway: Gateway, body: bytes) -> None:
    """A signed body that is no JSON object is refused as such; an odd object is kept."""
    async with client_of(qfpay_gateway) as client:
        told = signed(body, qfpay_gateway.client_key)
        try:
            notice = await client.handle_notification(*told)
        except InvalidRequestError:
            assert not body.endswith(b"}")
        else:
            assert (notice.kind, notice.syssn) == ("", None)


async def test_five_megabytes(qfpay_gateway: Gateway) -> None:
    """More than 64 KiB is refused, rightly signed or not."""
    async with client_of(qfpay_gateway) as client:
        for size in (65_537, 5_000_000):
            body = b'{"a":"' + b"x" * size + b'"}'
            with pytest.raises(InvalidRequestError):
                await client.handle_notification(*signed(body, qfpay_gateway.client_key))
        fits = b'{"a":"' + b"x" * (65_536 - 8) + b'"}'
        assert (await client.handle_notification(*signed(fits, qfpay_gateway.client_key))).syssn is None


@pytest.mark.parametrize("body", ["{}", None, {"a": 1}])
async def test_not_bytes(qfpay_gateway: Gateway, body: object) -> None:
    """Anything but raw bytes is refused: a parsed body cannot be verified."""
    async with client_of(qfpay_gateway) as client:
        with pytest.raises(InvalidRequestError):
            await client.handle_notification(body, {})  # type: ignore[arg-type]


async def test_without_original_it_triggers_an_enquiry(qfpay_gateway: Gateway) -> None:
    """A notice that names no original proves nothing alone, and makes the client ask for its syssn."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        before = queries(qfpay_gateway)
        told = qfpay_gateway.notification(only(qfpay_gateway, syssn), orig_syssn=None)
        await client.handle_notification(*told)
        assert await state(client) is State.IN_DOUBT

        async def asked() -> bool:
            return queries(qfpay_gateway) > before

        await until(asked)
        assert f"{only(qfpay_gateway, syssn)}" in str(qfpay_gateway.requests[-1].params)
        await client.reconcile()
        await check_equal(client, qfpay_gateway, syssn)


async def test_a_portal_capture_is_notified(qfpay_gateway: Gateway) -> None:
    """A notice of a movement made elsewhere is kept, found by reconciliation, and then explained."""
    async with client_of(qfpay_gateway) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        portal = qfpay_gateway.portal_capture(syssn, 3_000)
        await client.handle_notification(*qfpay_gateway.notification(portal))
        report = await client.reconcile()
        assert report.unexplained_notices == 0
        assert (await client.balance(syssn)).foreign == 3_000
        await check_equal(client, qfpay_gateway, syssn)


async def test_for_a_hold_that_is_not_ours(qfpay_gateway: Gateway) -> None:
    """A notice about a hold that nobody registered is kept and reported, and sends no money."""
    async with client_of(qfpay_gateway) as client:
        await registered(client, qfpay_gateway, HOLD)
        other = qfpay_gateway.portal_capture(qfpay_gateway.hold(HOLD), 3_000)
        await client.handle_notification(*qfpay_gateway.notification(other))
        assert (await client.reconcile()).unexplained_notices == 1
        assert writes(qfpay_gateway) == 0


async def test_after_a_decision_it_contradicts(qfpay_gateway: Gateway) -> None:
    """A pending capture that was declined, then notified as done: a discrepancy, and the end stays as it is."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, fault="pending")
        qfpay_gateway.faults.add("altered", operation="query", rows=True, changes={"respcd": "1201"}, times=1)
        await client.reconcile()
        assert await state(client) is State.NOT_EXECUTED
        qfpay_gateway.settle_pending()
        await client.handle_notification(*qfpay_gateway.notification(only(qfpay_gateway, syssn)))
        assert await state(client) is State.NOT_EXECUTED
        report = await client.reconcile()
        assert "executed_though_ended" in kinds(report)
        assert (await client.balance(syssn)).foreign == LOST


async def test_ledger_down_once(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """What could not be kept is said so; the redelivery then works."""
    path = tmp_path / "ledger.db"
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn)
        told = qfpay_gateway.notification(only(qfpay_gateway, syssn))
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        from tests.evidence.broken import unwritable

        with unwritable(path), pytest.raises(LedgerUnavailableError):
            await client.handle_notification(*told)
        await client.handle_notification(*told)
        assert await state(client) is State.EXECUTED
        await check_equal(client, qfpay_gateway, syssn)


async def test_in_time_for_the_caller(qfpay_gateway: Gateway) -> None:
    """A notice that comes while a caller is patient gives that caller its result."""
    async with client_of(qfpay_gateway) as client:
        syssn = await registered(client, qfpay_gateway, HOLD)
        qfpay_gateway.faults.add("drop_after", operation="capture")
        qfpay_gateway.faults.add("hang_before", operation="query")
        qfpay_gateway.config.link_rows = False
        call = asyncio.create_task(client.capture(syssn, LOST, idempotency_key="lost", patience_s=10))
        await qfpay_gateway.wait_hanging()
        await client.handle_notification(*qfpay_gateway.notification(only(qfpay_gateway, syssn)))
        qfpay_gateway.release()
        assert (await call).confirmed_by == "notification"
        assert (await entry_of(client)).state is State.EXECUTED


async def test_none_of_it_ends_a_doubt_by_time(qfpay_gateway: Gateway) -> None:
    """Without a notice the doubt stays, also after many notices about others."""
    async with client_of(qfpay_gateway) as client:
        syssns = [await registered(client, qfpay_gateway, HOLD) for _ in range(2)]
        for syssn in syssns:
            await lose(client, qfpay_gateway, syssn, key=syssn)
        await client.handle_notification(*qfpay_gateway.notification(only(qfpay_gateway, syssns[0])))
        assert [await state(client, syssn) for syssn in syssns] == [State.EXECUTED, State.IN_DOUBT]
        with pytest.raises(OutcomeUnknownError):
            await client.capture(syssns[1], LOST, idempotency_key=syssns[1])
