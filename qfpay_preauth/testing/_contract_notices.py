"""Conformance cases of notifications: which stay open, and which the enquiry's rows close."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from qfpay_preauth._models import ConfirmedBy, Judgement, Listing, Notification, Policy, Transaction

from ._ledger_kit import HOLD, Cases, Scene, case, moment


class NoticeCases(Cases):
    """Notices that fit nothing in the books."""

    @case
    async def test_a_notice_is_kept_once(self, s: Scene) -> None:
        """The same notice again is not fresh, and one of another account is another one."""
        first = await s.ledger.notice(s.account, _notice("SALE"), moment(1))
        again = await s.ledger.notice(s.account, _notice("SALE"), moment(2))
        elsewhere = await s.ledger.notice("M-2", _notice("SALE"), moment(2))
        assert (first.fresh, again.fresh, elsewhere.fresh) == (True, False, True)
        assert await _open(s) == ["SALE"]

    @case
    async def test_other_sales_are_closed(self, s: Scene) -> None:
        """Once captures were shown with their original, a sale without one is not ours; nor is another hold's."""
        await _shown(s)
        for each in (_notice("SALE"), _notice("CAP-X", orig_syssn="HOLD-X"), _notice("REF-X", "refund", "SALE")):
            await s.ledger.notice(s.account, each, moment(5))
        assert await _open(s) == ["CAP-X", "REF-X", "SALE"]
        rows = (_row("SALE"), _row("CAP-X", "HOLD-X"), _row("REF-X", "SALE", "refund"))
        observed = await _observe(s, *rows)
        assert (observed.strangers, await _open(s)) == (1, [])

    @case
    async def test_what_may_be_ours_stays_open(self, s: Scene) -> None:
        """Not shown, not successful, on a hold of ours, by its own word or by the notice's: it stays open."""
        await _shown(s)
        notices = [_notice(each) for each in ("UNSEEN", "PENDING", "CLOSED")]
        notices += [_notice("MINE", orig_syssn=HOLD), _notice("NAMED", orig_syssn=HOLD)]
        for each in notices:
            await s.ledger.notice(s.account, each, moment(5))
        await s.doubted((await s.capture("k2", 100, at_s=4)).entry)
        rows = (evolve(_row("PENDING"), code="1143"), _row("CLOSED", None, "close"), _row("NAMED"))
        observed = await _observe(s, *rows)
        assert (observed.strangers, await _open(s)) == (0, ["CLOSED", "MINE", "NAMED", "PENDING", "UNSEEN"])

    @case
    async def test_before_captures_were_shown_linked(self, s: Scene) -> None:
        """Where the gateway may not name originals at all, a sale without one may be a capture of ours."""
        await s.hold()
        await s.ledger.notice(s.account, _notice("SALE"), moment(5))
        await _observe(s, _row("SALE"))
        assert await _open(s) == ["SALE"]

    @case
    async def test_a_refund_in_the_portal_of_what_is_just_shown(self, s: Scene) -> None:
        """A refund whose capture the same list shows on a hold of ours is no stranger's."""
        await _shown(s)
        await s.doubted((await s.capture("k2", 100, at_s=4)).entry)
        await s.ledger.notice(s.account, _notice("REF", "refund", "CAP-2"), moment(5))
        await _observe(s, evolve(_row("CAP-2", HOLD), system_time=None), _row("REF", "CAP-2", "refund"))
        assert await _open(s) == ["REF"]


async def _shown(s: Scene) -> None:
    """The gateway answered a capture of ours and showed it with its original."""
    await s.hold()
    entry = (await s.capture("k1", 300)).entry
    await s.end(entry, Judgement.EXECUTED, "CAP-1", confirmed_by=ConfirmedBy.ANSWER)
    await _observe(s, evolve(_row("CAP-1", HOLD), amount=300))


async def _observe(s: Scene, *rows: Transaction) -> Any:
    listing = Listing(rows, moment(-3_600), moment(10), stable=True, whole=True)
    return await s.ledger.observe(s.account, listing, Policy(), [])


async def _open(s: Scene) -> list[str]:
    """The syssns of the notices that are open."""
    return sorted(str(each.syssn) for each in await s.ledger.sweep_notices(s.account))


def _notice(syssn: str, kind: str = "payment", orig_syssn: str | None = None) -> Notification:
    return Notification(
        kind, syssn, orig_syssn, f"ORDER-OF-{syssn}", 70, "HKD", "0000", {}, None, moment(4), digest=f"{kind} {syssn}"
    )


def _row(syssn: str, orig: str | None = None, word: str = "payment") -> Transaction:
    return Transaction(syssn, orig, f"ORDER-OF-{syssn}", word, 100, "HKD", "0000", None, "0", moment(3))
