"""A story that uses every verb that writes, told to any ledger; what each verb answered, and all that is then known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta

from qfpay_preauth._models import (
    Authorization,
    Judgement,
    Listing,
    Notification,
    Policy,
    Transaction,
)
from qfpay_preauth.errors import PreauthError
from qfpay_preauth.ledger import Ledger
from qfpay_preauth.testing._ledger_kit import Scene, moment

Step = Callable[[], Awaitable[object]]
UNAVAILABLE = "LedgerUnavailableError"
CHAPTERS = 2
_RAW = {"respcd": "0000", "respmsg": "x" * 3_000}  # an entry that takes some room


async def told(step: tuple[str, Step]) -> str:
    """What a step answered: its name, or the error's."""
    try:
        await step[1]()
    except PreauthError as error:
        return type(error).__name__
    return step[0]


def story(s: Scene, chapters: int = CHAPTERS) -> Iterator[tuple[str, Step]]:
    """Every step by its name. A step that fails is not made up for: the later ones find what there is."""
    for chapter in range(chapters):
        yield from _chapter(s, f"{chapter}")


def _chapter(s: Scene, c: str) -> Iterator[tuple[str, Step]]:
    hold, ledger, account = f"H{c}", s.ledger, s.account

    async def end(key: str, judgement: Judgement, result: str | None = None, *, again: bool = False) -> None:
        entry = await ledger.entry(account, key)
        if entry is not None:
            await s.end(entry, judgement, result, rerunnable=again, raw=_RAW, detail="said")

    async def decide(key: str) -> None:
        entry = await ledger.entry(account, key)
        if entry is not None:
            await s.decide(entry, Judgement.EXECUTED, 100, f"S{key}")

    def capture(key: str, amount: int) -> Step:
        return lambda: s.capture(key, amount, syssn=hold)

    yield f"register {c}", lambda: s.hold(10_000, hold)
    yield f"reserve {c}a", capture(f"{c}a", 1_000)
    yield f"execute {c}a", lambda: end(f"{c}a", Judgement.EXECUTED, f"S{c}a")
    yield f"reserve {c}b", capture(f"{c}b", 1_100)
    yield f"pending {c}b", lambda: end(f"{c}b", Judgement.IN_DOUBT, f"S{c}b")
    yield f"notice {c}b", lambda: ledger.notice(account, _notice(f"S{c}b", hold, 1_100), moment(20))
    yield f"reserve {c}c", capture(f"{c}c", 1_200)
    yield f"lose {c}c", lambda: end(f"{c}c", Judgement.IN_DOUBT)
    yield f"observe {c}", lambda: ledger.observe(account, _listing(c, hold), Policy(), [f"{c}c"])
    yield f"refund {c}", lambda: s.refund(f"{c}r", f"S{c}a", 300)
    yield f"refuse {c}r", lambda: end(f"{c}r", Judgement.DECLINED, again=True)
    yield f"refund {c} again", lambda: s.refund(f"{c}r", f"S{c}a", 300)
    yield f"unknown notice {c}", lambda: ledger.notice(account, _notice(f"N{c}", "NOBODY", 5), moment(20))
    yield f"adopt {c}", lambda: ledger.adopt(_imported(s, f"I{c}"), [_row(f"IC{c}", f"I{c}", 70)], moment(30))
    yield f"bookmark {c}", lambda: ledger.bookmark(account, moment(40))
    yield f"decide {c}c", lambda: decide(f"{c}c")
    yield f"unfreeze {c}", lambda: s.unfreeze(f"{c}u", syssn=hold)
    yield f"execute {c}u", lambda: end(f"{c}u", Judgement.EXECUTED, f"S{c}u")
    yield f"sweep {c}", lambda: ledger.sweep_notices(account)
    yield f"report {c}", lambda: ledger.report(account)


def _listing(c: str, hold: str) -> Listing:
    rows = (
        _row(f"S{c}a", hold, 1_000),
        _row(f"S{c}c", hold, 1_200),
        _row(f"P{c}", hold, 400),  # made in the portal
        _row(f"S{c}b", hold, 9),  # another amount than ours
        _row(f"PR{c}", f"P{c}", 50, "refund"),
    )
    return Listing(rows, moment(-3_600), moment(10), stable=True, whole=True)


def _row(syssn: str, orig: str, amount: int, word: str = "payment") -> Transaction:
    return Transaction(syssn, orig, None, word, amount, "HKD", "0000", None, "0", moment(2), {"syssn": syssn})


def _notice(syssn: str, orig: str, amount: int) -> Notification:
    return Notification(
        "payment", syssn, orig, None, amount, "HKD", "0000", dict(_RAW), None, moment(2), digest=f"digest of {syssn}"
    )


def _imported(s: Scene, syssn: str) -> Authorization:
    return Authorization(s.account, syssn, 5_000, "HKD", f"ORDER-{syssn}", moment(0))


async def known(ledger: Ledger, chapters: int = CHAPTERS) -> list[object]:
    """All that a ledger says about all that the story names."""
    s = Scene(ledger)
    found: list[object] = []
    for c in map(str, range(chapters)):
        for syssn in (f"H{c}", f"I{c}"):
            books = await ledger.books(s.account, syssn)
            found.append(books and (books.authorization, sorted(each.idempotency_key for each in books.unresolved)))
        for key in (f"{c}{letter}" for letter in "abcru"):
            found += [await ledger.entry(s.account, key), list(await ledger.events(s.account, key))]
        for syssn in [f"S{c}{letter}" for letter in "abcu"] + [f"P{c}", f"PR{c}", f"IC{c}", f"H{c}", f"I{c}"]:
            found.append(await ledger.movement(s.account, syssn))
    found.append([each.idempotency_key for each in await ledger.doubts(s.account, moment(1_000), None, 100)])
    found.append(await ledger.span(s.account))
    found.append(sorted(each.syssn for each in await ledger.expiring(s.account, moment(9e6), timedelta(days=7))))
    found.append(list(await ledger.report(s.account)))
    found.append([each.digest for each in await ledger.sweep_notices(s.account)])
    return found
