"""The windows that processes share: never over a limit at the moment of sending, whoever dies; and no room is lost."""

from __future__ import annotations

from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from qfpay_preauth._windows import (
    MINUTE_MS,
    SECOND_MS,
    SOON_MS,
    USE_WITHIN_MS,
    Claim,
    Windows,
    exchanged,
    exchanged_text,
    from_text,
    to_text,
)


def claim(wanted: int = 1, *, per_second: int = 3, per_minute: int = 5) -> Claim:
    return Claim("gateway#M1", per_second, per_minute, wanted, lambda: 0.0)


def most_in_any(window_ms: int, sent_ms: list[int]) -> int:
    """The most sendings in any window that begins with one, counted by hand; both ends belong to it."""
    return max((sum(start <= each <= start + window_ms for each in sent_ms) for start in sent_ms), default=0)


def test_a_block_is_what_fits() -> None:
    """More is wanted than fits: the block is as large as the room, and the next claim is told to come again."""
    windows, grant = exchanged(Windows(), claim(10), 0, 0)
    assert (grant.permits, grant.wait_s) == (3, 0.0)
    windows, again = exchanged(windows, claim(10), 0, 0)
    assert (again.permits, again.wait_s) == (0, SOON_MS / 1000)


def test_what_was_spent_leaves_after_its_window() -> None:
    """Three sent: the next three come when a second is over, and then the minute binds."""
    windows, grant = exchanged(Windows(), claim(3), 0, 0)
    told = evolve(claim(3), spent=((grant.block, 3),))
    windows, none = exchanged(windows, told, 100, 100)
    assert (none.permits, none.wait_s) == (0, 1.001)
    windows, none = exchanged(windows, claim(3), 1_100, 0)
    assert none.permits == 0  # both ends belong to a window
    windows, two = exchanged(windows, claim(3), 1_101, 0)
    assert two.permits == 2
    windows, none = exchanged(windows, evolve(claim(3), spent=((two.block, 2),)), 1_200, 1_200)
    assert (none.permits, none.wait_s) == (0, 58.901)


def test_what_is_returned_can_be_drawn_again() -> None:
    """A permit that was not used costs nobody anything."""
    windows, grant = exchanged(Windows(), claim(3), 0, 0)
    windows, again = exchanged(windows, evolve(claim(3), returned=((grant.block, 2),)), 5, 0)
    assert again.permits == 2


def test_a_dead_process_counts_as_having_sent_at_its_use_by() -> None:
    """Nobody speaks of a block again: it fills the windows until a minute after the last moment it could be used."""
    windows, _ = exchanged(Windows(), claim(3), 0, 0)
    windows, none = exchanged(windows, claim(3), USE_WITHIN_MS, 0)
    assert none.permits == 0
    windows, two = exchanged(windows, claim(3), USE_WITHIN_MS + SECOND_MS + 1, 0)
    assert two.permits == 2
    _, all_of_them = exchanged(windows, claim(3), 2 * USE_WITHIN_MS + SECOND_MS + MINUTE_MS + 10, 0)
    assert all_of_them.permits == 3


def test_a_park_stops_every_process() -> None:
    """After a 429 nobody draws before its time, and everybody is told how long that is."""
    windows, _ = exchanged(Windows(), evolve(claim(0), park_s=7.5), 1_000, 0)
    windows, none = exchanged(windows, claim(1), 2_000, 0)
    assert (none.permits, none.wait_s) == (0, 6.5)
    _, one = exchanged(windows, claim(1), 8_500, 0)
    assert one.permits == 1


def test_a_clock_that_began_anew_blocks_nobody() -> None:
    """What was written before the machine was started again lies in the future of its clock, and is dropped."""
    windows = Windows(spent=((9_000_000, 5),), blocks=((1, 3, 9_010_000),), parked_until=999_000_000_000, drawn=1)
    _, grant = exchanged(windows, claim(3), 1_000, 0)
    assert grant.permits == 3


def test_a_claim_that_changes_nothing_writes_nothing() -> None:
    """Asking in vain costs the ledger no write."""
    text, _ = exchanged_text(None, claim(3), 1.0)
    assert text is not None
    assert exchanged_text(text, claim(3), 1.1)[0] is None


_amounts = st.integers(0, 10**9)


@given(st.lists(st.tuples(_amounts, _amounts)), st.lists(st.tuples(_amounts, _amounts, _amounts)), _amounts, _amounts)
def test_the_text_keeps_everything(
    spent: list[tuple[int, int]], blocks: list[tuple[int, int, int]], parked_until: int, drawn: int
) -> None:
    """What the ledger keeps reads back as it was."""
    windows = Windows(tuple(spent), tuple(blocks), parked_until, drawn)
    assert from_text(to_text(windows)) == windows


@define
class Process:
    """One of several: what it has drawn and not used, and what it has not told yet."""

    free: list[tuple[int, int]] = field(factory=list)
    spent: list[int] = field(factory=list)
    spent_ms: int = 0


_steps = st.lists(
    st.tuples(
        st.integers(0, 700) | st.integers(0, 30_000),
        st.integers(0, 2),
        st.sampled_from(["draw", "draw", "send", "send", "tell", "return", "die"]),
    ),
    max_size=150,
)


@settings(max_examples=300)
@given(st.integers(1, 4), st.integers(1, 6), _steps)
def test_no_window_is_ever_over_its_limit(per_second: int, more: int, steps: list[tuple[int, int, str]]) -> None:
    """Three processes draw, send late, tell late, return and die: counted when sent, no window is over its limit."""
    windows, now_ms, sent_ms = Windows(), 0, list[int]()
    per_minute = min(per_second + more, per_second * 60)
    processes = [Process(), Process(), Process()]
    terms = claim(per_second=per_second, per_minute=per_minute)
    for pause_ms, who, step in steps:
        now_ms += pause_ms
        process = processes[who]
        process.free = [each for each in process.free if now_ms < each[1]]
        if step == "send" and process.free:
            process.spent.append(process.free.pop()[0])
            process.spent_ms = now_ms
            sent_ms.append(now_ms)
        elif step == "die":
            processes[who] = Process()
        elif step in ("draw", "tell", "return"):
            told = evolve(terms, wanted=3 if step == "draw" else 0, spent=tuple((each, 1) for each in process.spent))
            if step == "return":
                told = evolve(told, returned=tuple((each, 1) for each, _ in process.free))
                process.free = []
            process.spent = []
            windows, grant = exchanged(windows, told, now_ms, process.spent_ms)
            process.free += [(grant.block, now_ms + USE_WITHIN_MS)] * grant.permits
    assert most_in_any(SECOND_MS, sent_ms) <= per_second
    assert most_in_any(MINUTE_MS, sent_ms) <= per_minute


@given(st.integers(1, 5), st.integers(1, 8), st.lists(st.integers(0, 2500), max_size=60))
def test_who_waits_as_told_gets_a_permit(per_second: int, more: int, pauses_ms: list[int]) -> None:
    """The wait that is named is enough where nobody else takes the room: no permit is lost for ever."""
    windows, now_ms = Windows(), 0
    spent: tuple[tuple[int, int], ...] = ()
    terms = claim(per_second=per_second, per_minute=min(per_second + more, per_second * 60))
    sent_ms = 0
    for pause_ms in pauses_ms:
        now_ms += pause_ms
        windows, grant = exchanged(windows, evolve(terms, spent=spent), now_ms, sent_ms)
        if not grant.permits:
            now_ms += round(grant.wait_s * 1000)
            windows, grant = exchanged(windows, terms, now_ms, 0)
        assert grant.permits == 1
        spent, sent_ms = ((grant.block, 1),), now_ms


def test_many_a_minute_stay_a_short_line() -> None:
    """With limits far above QFPay's the line does not grow with the rate."""
    windows, now_ms = Windows(), 0
    terms = claim(100, per_second=10_000, per_minute=600_000)
    while now_ms < 2 * MINUTE_MS:
        windows, grant = exchanged(windows, terms, now_ms, 0)
        windows, _ = exchanged(windows, evolve(terms, wanted=0, spent=((grant.block, 100),)), now_ms + 3, now_ms + 3)
        now_ms += 37
    assert len(windows.spent) <= MINUTE_MS / 100 + 2
