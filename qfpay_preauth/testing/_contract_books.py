"""Conformance cases of reading: books, doubts, history, accounts, limits, lifetime."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from attrs import evolve, exceptions, fields

from qfpay_preauth._models import Balance, Entry, Judgement, Operation, State
from qfpay_preauth._windows import Claim
from qfpay_preauth.errors import ConfigurationError, OverCaptureError, UnknownAuthorizationError
from qfpay_preauth.ledger import After

from ._ledger_kit import DOUBT_AT_S, HOLD, Cases, Scene, case, moment

AMOUNT_MAX = 99_999_999_999
LONG_KEYS = ("鍵" * 255, "🔑" * 255, "é" * 255, "e\u0301" * 127, "k" * 255, "'; DROP TABLE entries; --", "%_\\\"'?")


class BalanceCases(Cases):
    """Sums."""

    @case
    async def test_balance_follows_every_move(self, s: Scene) -> None:
        """Each move shows in the balance at once: held, in doubt, captured, refunded, unfrozen, capturable."""
        await s.hold(1_000)
        assert await s.balance() == _balance(capturable=1_000)
        entry = (await s.capture("k1", 300)).entry
        assert await s.balance() == _balance(held=300, capturable=700)
        assert await s.balance(at_s=DOUBT_AT_S) == _balance(in_doubt=300, capturable=700)
        await s.doubted(entry)
        assert await s.balance() == _balance(in_doubt=300, capturable=700)
        await s.executed(entry, "CAP-1")
        assert await s.balance() == _balance(captured=300, capturable=700)
        refund = (await s.refund("r1", "CAP-1", 100)).entry
        assert await s.balance() == _balance(captured=300, capturable=700)
        await s.executed(refund)
        assert await s.balance() == _balance(captured=300, refunded=100, capturable=700)
        unfreeze = (await s.unfreeze("u1")).entry
        assert await s.balance() == _balance(captured=300, refunded=100, held=700)
        await s.executed(unfreeze)
        assert await s.balance() == _balance(captured=300, refunded=100, unfrozen=700)

    @case
    async def test_books_list_exactly_the_unresolved_entries(self, s: Scene) -> None:
        """Held and doubtful entries of this hold, refunds too; not the ended ones and not those of other holds."""
        await s.hold()
        await s.hold(syssn="HOLD-2")
        await s.captured("k1", 100, "CAP-1")
        await s.declined((await s.capture("k2", 110)).entry)
        await s.capture("k3", 120, syssn="HOLD-2")
        wanted = [
            (await s.capture("k4", 130)).entry,
            await s.doubted((await s.capture("k5", 140)).entry),
            (await s.refund("r1", "CAP-1", 50)).entry,
        ]
        books = await s.ledger.books(s.account, HOLD)
        assert books is not None
        assert sorted(books.unresolved, key=lambda entry: entry.idempotency_key) == wanted

    @case
    async def test_balance_is_the_fold_of_history(self, s: Scene) -> None:
        """The sums equal what the events add up to, over attempts, doubts, contradictions and refunds."""
        await s.hold()
        first = (await s.capture("k1", 100)).entry
        await s.not_sent(first)
        await s.executed((await s.capture("k1", 100)).entry, "CAP-1")
        await s.end(first, Judgement.EXECUTED, "CAP-0")
        await s.doubted((await s.capture("k2", 250)).entry)
        await s.executed((await s.refund("r1", "CAP-1", 30)).entry)
        await s.declined((await s.refund("r2", "CAP-1", 70)).entry)
        await s.check_fold(["k1", "k2", "r1", "r2"])
        assert (await s.sums()).claimed == 250


class HistoryCases(Cases):
    """Events."""

    @case
    async def test_every_move_is_one_event(self, s: Scene) -> None:
        """The whole way of an entry, oldest first, with time, amount and detail."""
        await s.hold()
        entry = (await s.capture("k1", 100, at_s=1)).entry
        await s.end(entry, Judgement.NOT_SENT, at_s=2, detail="refused", rerunnable=True)
        again = (await s.capture("k1", 100, at_s=3)).entry
        await s.end(again, Judgement.IN_DOUBT, at_s=4, detail="lost")
        await s.end(again, Judgement.EXECUTED, "CAP-1", at_s=5)
        held, doubt, yes, no = State.HELD, State.IN_DOUBT, State.EXECUTED, State.NOT_EXECUTED
        events = await s.events("k1")
        assert [(e.from_state, e.to_state) for e in events] == [
            (None, held), (held, no), (no, held), (held, doubt), (doubt, yes),
        ]  # fmt: skip
        assert [event.at for event in events] == [moment(n) for n in range(1, 6)]
        assert [event.detail for event in events] == [None, "refused", None, "lost", None]
        assert {(e.account, e.kind, e.authorization, e.idempotency_key, e.amount) for e in events} == {
            (s.account, "capture", HOLD, "k1", 100)
        }

    @case
    async def test_history_only_grows(self, s: Scene) -> None:
        """After every step the earlier events are still there, unchanged and in front."""
        await s.hold()
        entry = (await s.capture("k1", 100)).entry
        seen = await s.events("k1")
        for judgement in (Judgement.IN_DOUBT, Judgement.EXECUTED, Judgement.DECLINED, Judgement.NOT_SENT):
            await s.end(entry, judgement)
            now = await s.events("k1")
            assert now[: len(seen)] == seen
            assert len(now) == len(seen) + 1
            seen = now


class DoubtCases(Cases):
    """The listing of doubts."""

    @case
    async def test_doubts_are_what_is_doubtful_now(self, s: Scene) -> None:
        """In doubt, and held past `doubt_at`, of every operation; not what is under way or ended."""
        await s.hold()
        await s.captured("k1", 100, "CAP-1")
        doubted = await s.doubted((await s.capture("k2", 110)).entry)
        old = (await s.refund("r1", "CAP-1", 10, at_s=1)).entry
        fresh = (await s.capture("k3", 120, at_s=2)).entry
        assert await _doubts(s, at_s=3) == [doubted]
        assert await _doubts(s, at_s=DOUBT_AT_S + 1 - 0.000_001) == [doubted]
        assert await _doubts(s, at_s=DOUBT_AT_S + 1) == [doubted, old]
        assert await _doubts(s, at_s=DOUBT_AT_S + 2) == [doubted, old, fresh]
        await s.executed(doubted)
        await s.declined(old)
        await s.executed(fresh)
        assert await _doubts(s, at_s=10**9) == []

    @case
    async def test_doubts_come_in_pages_oldest_first(self, s: Scene) -> None:
        """Pages follow (reserved_at, key), also where many share one moment, and miss or repeat nothing."""
        await s.hold(100_000)
        times = {"k9": 0, "k1": 1, "é": 1, "k3": 1, "鍵": 1, "🔑": 1, "Z": 1, "k0": 2, "k8": 3}
        for number, (key, at_s) in enumerate(times.items()):
            await s.doubted((await s.capture(key, 100 + number, at_s=at_s)).entry)
        wanted = sorted(times, key=lambda key: (times[key], key))
        for limit in (1, 2, 3, len(times), 100):
            found: list[Entry] = []
            while page := await _doubts(s, 5, found[-1] if found else None, limit):
                assert len(page) <= limit
                assert found[-1:] != page[:1], "a page repeats the entry that it goes on after"
                found += page
            assert [entry.idempotency_key for entry in found] == wanted

    @case
    async def test_doubts_go_on_after_an_entry_that_ended(self, s: Scene) -> None:
        """A page may go on behind an entry that is no longer listed."""
        await s.hold()
        entries = [await s.doubted((await s.capture(f"k{n}", 100 + n, at_s=n)).entry) for n in range(3)]
        for ended in entries[:2]:
            await s.executed(ended)
        assert await _doubts(s, 5, entries[0]) == [entries[2]]

    @case
    async def test_doubts_of_a_later_attempt_are_dated_by_it(self, s: Scene) -> None:
        """An entry that ran again is listed by its last reservation."""
        await s.hold()
        await s.not_sent((await s.capture("k1", 100, at_s=0)).entry)
        other = await s.doubted((await s.capture("k2", 200, at_s=5)).entry)
        again = await s.doubted((await s.capture("k1", 100, at_s=10)).entry)
        assert await _doubts(s, at_s=11) == [other, again]


class ValueCases(Cases):
    """Accounts, limits, values."""

    @case
    async def test_accounts_are_separate(self, s: Scene) -> None:
        """The same syssn and keys under two accounts never meet; a hold of one is unknown to the other."""
        await s.hold()
        mine = await s.captured("k1", 300, "CAP-1")
        await s.doubted((await s.capture("k2", 400)).entry)
        s.account = "M-2"
        await s.refused(UnknownAuthorizationError, s.request("k1"))
        assert await s.ledger.entry("M-2", "k1") is None
        assert await s.ledger.movement("M-2", "CAP-1") is None
        assert list(await s.ledger.events("M-2", "k1")) == []
        assert await _doubts(s, at_s=10**9) == []
        await s.hold(500)
        theirs = await s.captured("k1", 500, "CAP-1")
        assert (theirs.state, theirs.result_syssn) == (State.EXECUTED, "CAP-1")
        s.account = "M-1"
        assert await s.entry("k1") == mine
        assert (await s.sums()).captured == 300

    @case
    async def test_amounts_at_their_limits(self, s: Scene) -> None:
        """Eleven digits and one minor unit are exact, one more than the hold is refused."""
        await s.hold(AMOUNT_MAX)
        await s.captured("k1", 1)
        await s.refused(OverCaptureError, s.request("k2", Operation.CAPTURE, AMOUNT_MAX))
        await s.captured("k3", AMOUNT_MAX - 1, "CAP-3")
        await s.executed((await s.refund("r1", "CAP-3", AMOUNT_MAX - 1)).entry)
        sums = await s.sums()
        assert (sums.captured, sums.refunded, sums.capturable) == (AMOUNT_MAX, AMOUNT_MAX - 1, 0)
        await s.hold(1, "HOLD-2")
        assert (await s.unfreeze("u1", syssn="HOLD-2")).entry.amount == 1

    @case
    async def test_keys_are_any_text_up_to_255_characters(self, s: Scene) -> None:
        """Keys of any script come back as they were, and are told apart byte for byte."""
        await s.hold(100_000)
        keys = [*LONG_KEYS, "K", "k", "k ", "é", "e\u0301"]
        for number, key in enumerate(keys):
            await s.doubted((await s.capture(key, 100 + number)).entry)
        for number, key in enumerate(keys):
            entry = await s.entry(key)
            assert (entry.idempotency_key, entry.amount) == (key, 100 + number)
            assert len(await s.events(key)) == 2
        assert {entry.idempotency_key for entry in await _doubts(s, 5)} == set(keys)

    @case
    async def test_times_keep_their_microseconds_in_any_zone(self, s: Scene) -> None:
        """A moment given in another zone reads back as the same moment, to the microsecond."""
        zone = timezone(timedelta(hours=8))
        at = datetime(2026, 3, 4, 23, 59, 59, 999_999, tzinfo=zone)
        await s.hold(registered_at=at, authorized_at=at, capture_window=timedelta(days=7, microseconds=1))
        entry = (await s.ledger.reserve(evolve(s.request("k1"), at=at, send_by=at, doubt_at=at))).entry
        await s.end(entry, Judgement.EXECUTED, "CAP-1", system_time=at)
        stored, sums = await s.entry("k1"), await s.sums()
        assert {stored.reserved_at, stored.send_by, stored.doubt_at, stored.system_time} == {at}
        assert (sums.registered_at, sums.authorized_at) == (at, at)
        assert sums.capture_window == timedelta(days=7, microseconds=1)

    @case
    async def test_values_are_frozen(self, s: Scene) -> None:
        """Nothing that a verb returns can be changed in place."""
        await s.hold()
        await s.captured("k1", 100, "CAP-1")
        await s.capture("k2", 200)
        books = await s.ledger.books(s.account, HOLD)
        movement = await s.ledger.movement(s.account, "CAP-1")
        assert books is not None
        assert movement is not None
        values: tuple[Any, ...] = (books, books.authorization, books.unresolved[0], movement, (await s.events("k1"))[0])
        for value in values:
            for each in fields(type(value)):
                with pytest.raises(exceptions.FrozenInstanceError):
                    setattr(value, each.name, None)

    @case
    async def test_raw_is_not_shared(self, s: Scene) -> None:
        """Changing the raw fields that were given, or that were read, does not change what is stored."""
        await s.hold()
        given = {"respcd": "0000"}
        await s.end((await s.capture("k1", 100)).entry, Judgement.EXECUTED, "CAP-1", raw=given)
        given["respcd"] = "9999"
        assert (await s.entry("k1")).raw == {"respcd": "0000"}
        read = (await s.entry("k1")).raw
        if isinstance(read, dict):
            read["respcd"] = "9999"
        assert (await s.entry("k1")).raw == {"respcd": "0000"}


class LifetimeCases(Cases):
    """Opening and closing."""

    @case
    async def test_open_again_does_nothing(self, s: Scene) -> None:
        """Opening an open ledger for the same environment keeps all that is in it."""
        await s.hold()
        await s.ledger.open("sandbox")
        assert (await s.sums()).amount == 1_000

    @case
    async def test_open_for_another_environment_is_refused(self, s: Scene) -> None:
        """A ledger belongs to one environment for good, open or closed."""
        await s.hold()
        for _ in range(2):
            with pytest.raises(ConfigurationError):
                await s.ledger.open("production")
            assert (await s.sums()).amount == 1_000
            await s.ledger.close()
            with pytest.raises(ConfigurationError):
                await s.ledger.open("production")
            await s.ledger.open("sandbox")

    @case
    async def test_close_twice_and_open_again(self, s: Scene) -> None:
        """Closing twice does nothing, and what was written is there after opening again."""
        await s.hold()
        await s.captured("k1", 100)
        await s.doubted((await s.capture("k2", 200)).entry)
        before = await s.everything()
        await s.ledger.close()
        await s.ledger.close()
        await s.ledger.open("sandbox")
        assert await s.everything() == before


class WindowsCases(Cases):
    """The rate windows that processes share. They are no part of the books."""

    @case
    async def test_permits_are_drawn_once(self, s: Scene) -> None:
        """Two that draw get together what the windows hold, and what is given back can be drawn again."""
        clock = _Clock()
        first = await s.ledger.draw(_claim(clock, 2))
        second = await s.ledger.draw(_claim(clock, 2))
        assert (first.permits, second.permits, first.block != second.block) == (2, 1, True)
        none = await s.ledger.draw(_claim(clock, 1))
        assert none.permits == 0
        assert none.wait_s > 0
        back = await s.ledger.draw(_claim(clock, 1, returned=((first.block, 1),)))
        assert back.permits == 1

    @case
    async def test_what_was_sent_fills_its_window(self, s: Scene) -> None:
        """What was sent is not given again, and the wait that is named is until it leaves the window."""
        clock = _Clock()
        sent = await s.ledger.draw(_claim(clock, 3))
        none = await s.ledger.draw(_claim(clock, 3, spent=((sent.block, 3),), spent_at=clock()))
        assert none.permits == 0
        assert 0 < none.wait_s <= 1.1

    @case
    async def test_a_park_holds_everybody(self, s: Scene) -> None:
        """After one was told to wait, nobody draws."""
        clock = _Clock()
        await s.ledger.draw(_claim(clock, 0, park_s=30.0))
        assert 29 < (await s.ledger.draw(_claim(clock, 1))).wait_s <= 30

    @case
    async def test_windows_are_apart(self, s: Scene) -> None:
        """Each name has windows of its own."""
        clock = _Clock()
        await s.ledger.draw(_claim(clock, 3))
        other = await s.ledger.draw(evolve(_claim(clock, 3), name="gateway#other"))
        assert other.permits == 3


class _Clock:
    """Monotonic seconds that stand still."""

    def __call__(self) -> float:
        return 1_000.0


def _claim(clock: _Clock, wanted: int, **more: Any) -> Claim:
    return Claim("gateway#M1", 3, 100, wanted, clock, **more)


class BooksCases(BalanceCases, HistoryCases, DoubtCases, ValueCases, LifetimeCases, WindowsCases):
    """All reading."""


def _balance(**sums: int) -> Balance:
    names = ("captured", "held", "in_doubt", "foreign", "unfrozen", "refunded", "capturable")
    return Balance(authorized=1_000, currency="HKD", **{name: sums.get(name, 0) for name in names})


async def _doubts(s: Scene, at_s: float, after: Entry | None = None, limit: int = 100) -> list[Entry]:
    place = After(after.reserved_at, after.idempotency_key) if after else None
    return list(await s.ledger.doubts(s.account, moment(at_s), place, limit))
