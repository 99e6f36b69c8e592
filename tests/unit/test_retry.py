"""What may be tried again: only what provably never left, and HTTP 429; and how long it waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qfpay_preauth import Settings
from qfpay_preauth._models import Answer, Delivery, NotSent, Unknown
from qfpay_preauth._retry import may_try_again, retry_after_s, send_with_retries

from .kit import NOW

NOT_SENT = NotSent("refused")
LIMITED = Answer(429, {}, b"")
YES = Answer(200, {}, b"{}")


def limited(text: str) -> Answer:
    """A 429 with a Retry-After."""
    return Answer(429, {"Retry-After": text}, b"")


@pytest.mark.parametrize("delivery", [NOT_SENT, LIMITED, limited("7")])
def test_what_was_provably_not_processed_may_be_tried_again(delivery: Delivery) -> None:
    """Nothing left, or the gateway said 429."""
    assert may_try_again(delivery)


def test_nothing_else_is_ever_tried_again() -> None:
    """No other status, and no silence: a capture has no idempotency key."""
    answers = [Answer(status, {}, b"") for status in range(100, 600)]
    assert [answer.status for answer in answers if may_try_again(answer)] == [429]
    assert not may_try_again(Unknown("cut"))


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("007", 7.0),
        ("86400", 86_400.0),
        ("999999999", 86_400.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=900), usegmt=True), 86_400.0),
        ("Sun, 15 Mar 2026 21:30:05 +0100", 0.0),
        ("Sunday, 15-Mar-26 20:31:05 GMT", 60.0),
        ("Sun Mar 15 20:31:05 2026", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(text: str, wait_s: float | None) -> None:
    """Seconds or a date with a zone, never negative, at most a day."""
    assert retry_after_s(limited(text), NOW) == wait_s


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "-1", "+5", "1.5", "1e3", "soon", "5s", "5,6", "\uff15", "\u00b2", "nan", "inf", "0x10", "1" * 10],
        *[
            "Sun, 99 Mar 2026 20:31:05 GMT",
            "Sun, 15 Mar 2026",
            "Sun, 15 Mar 2026 20:31:05 -0000",
            "\udcff",
            "1 2 3 4 5 6",
        ],
    ],
)
def test_junk_in_retry_after_is_ignored(text: str) -> None:
    """What is neither is as good as absent."""
    assert retry_after_s(limited(text), NOW) is None


def test_only_a_429_asks_for_a_wait() -> None:
    """The header counts on a 429 only; without it there is no wait."""
    assert retry_after_s(LIMITED, NOW) is None
    assert retry_after_s(Answer(503, {"Retry-After": "7"}, b""), NOW) is None
    assert retry_after_s(NOT_SENT, NOW) is None
    assert retry_after_s(Unknown("x"), NOW) is None


_words = st.sampled_from(
    [
        "Sun,",
        "15",
        "Mar",
        "2026",
        "20:31:05",
        "GMT",
        "+9999",
        "-0000",
        "99999999999999999999",
        "0",
        ":",
        "(",
        "0001",
        "-",
        ",",
    ]
)


@given(st.text(st.characters(), max_size=30) | st.lists(_words, max_size=8).map(" ".join))
def test_reading_retry_after_is_total(text: str) -> None:
    """Any header gives None or a finite wait from nothing to a day."""
    wait_s = retry_after_s(limited(text), NOW)
    assert wait_s is None or (math.isfinite(wait_s) and 0 <= wait_s <= 86_400)


class Run:
    """Attempts from a script, on a clock that only moves by the waits that were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *deliveries: Delivery, took_s: float = 0.0) -> None:
        self.script = list(deliveries)
        self.took_s = took_s
        self.made = 0
        self.waits: list[float] = []
        self.monotonic_s = 1000.0
        monkeypatch.setattr(asyncio, "sleep", self._sleep)

    async def _sleep(self, delay: float, result: Any = None) -> None:
        self.waits.append(delay)
        self.monotonic_s += delay

    async def attempt(self) -> Delivery:
        self.made += 1
        self.monotonic_s += self.took_s
        return self.script.pop(0)

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.monotonic_s - 1000.0)

    async def send(
        self, deadline_s: float = 60.0, give_up: Callable[[], bool] = lambda: False, **settings: Any
    ) -> Delivery:
        return await send_with_retries(
            self.attempt,
            settings=Settings(**settings),
            deadline=1000.0 + deadline_s,
            monotonic=lambda: self.monotonic_s,
            now=self.now,
            give_up=give_up,
        )


@pytest.mark.parametrize(
    "delivery", [YES, Unknown("cut"), Answer(500, {}, b""), Answer(503, {"Retry-After": "0"}, b"")]
)
async def test_a_conclusive_or_unknown_delivery_ends_it(monkeypatch: pytest.MonkeyPatch, delivery: Delivery) -> None:
    """One attempt, no wait: an answer or a silence is never asked again."""
    run = Run(monkeypatch, delivery)
    assert await run.send(attempts_max=100) is delivery
    assert (run.made, run.waits) == (1, [])


@pytest.mark.parametrize("attempts", [1, 2, 3, 7])
async def test_no_more_attempts_than_allowed(monkeypatch: pytest.MonkeyPatch, attempts: int) -> None:
    """attempts_max counts all attempts, the first included; the last delivery is handed back."""
    script = [NotSent(str(number)) for number in range(1, 9)]
    run = Run(monkeypatch, *script)
    assert await run.send(attempts_max=attempts) is script[attempts - 1]
    assert (run.made, len(run.waits)) == (attempts, attempts - 1)


@pytest.mark.parametrize("end", [YES, Unknown("cut after all")])
async def test_retries_stop_at_the_first_delivery_that_may_have_happened(
    monkeypatch: pytest.MonkeyPatch, end: Delivery
) -> None:
    """After two provable failures the third delivery counts, also where it is unknown."""
    run = Run(monkeypatch, NOT_SENT, LIMITED, end, YES)
    assert await run.send(attempts_max=10) is end
    assert run.made == 3


async def test_waits_are_jittered_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are exponential with jitter: none is longer than the step, nor than backoff_max_s, and they differ."""
    run = Run(monkeypatch, *[NOT_SENT] * 20)
    await run.send(attempts_max=20, backoff_initial_s=0.2, backoff_max_s=1.0)
    assert len(run.waits) == 19
    assert all(0 <= wait <= min(1.0, 0.2 * 2**number) for number, wait in enumerate(run.waits))
    assert len(set(run.waits)) > 10


@pytest.mark.parametrize("text", ["7", format_datetime(NOW + timedelta(seconds=7), usegmt=True)])
async def test_retry_after_is_waited_for(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The wait is at least what the gateway asked for, longer than our own if need be."""
    run = Run(monkeypatch, limited(text), YES)
    assert await run.send(backoff_max_s=0.01) is YES
    assert run.waits == [7.0]


async def test_junk_in_retry_after_does_not_stop_the_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an unreadable Retry-After our own wait counts."""
    run = Run(monkeypatch, limited("soon"), YES)
    assert await run.send(backoff_max_s=0.5) is YES
    assert run.waits[0] <= 0.5


async def test_no_wait_goes_beyond_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Retry-After beyond the deadline ends the call at once, with that answer."""
    run = Run(monkeypatch, limited("60"), YES)
    delivery = await run.send(deadline_s=60.0)
    assert retry_after_s(delivery, NOW) == 60.0
    assert (run.made, run.waits) == (1, [])


async def test_the_time_of_attempts_counts_against_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One deadline over everything: attempts of four seconds fit three times into ten seconds at most."""
    run = Run(monkeypatch, *[NOT_SENT] * 10, took_s=4.0)
    assert await run.send(deadline_s=10.0, attempts_max=10, backoff_max_s=0.001) is NOT_SENT
    assert run.made == 3


async def test_giving_up_ends_the_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the caller has left, nothing is tried again."""
    run = Run(monkeypatch, *[NOT_SENT] * 5)
    assert await run.send(give_up=lambda: True, attempts_max=5) is NOT_SENT
    assert run.made == 1
    later = Run(monkeypatch, *[NOT_SENT] * 5)
    assert await later.send(give_up=lambda: later.made >= 2, attempts_max=5) is NOT_SENT
    assert later.made == 2


async def test_a_cancelled_attempt_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancellation and errors go through: only deliveries are judged."""
    for error in (asyncio.CancelledError(), ValueError("defect")):
        run = Run(monkeypatch, NOT_SENT, NOT_SENT)

        async def attempt(run: Run = run, error: BaseException = error) -> Delivery:
            if run.made:
                raise error
            return await Run.attempt(run)

        run.attempt = attempt  # type: ignore[method-assign] # a script cannot raise
        with pytest.raises(type(error)):
            await run.send(attempts_max=5)
        assert run.made == 1


async def test_tasks_do_not_share_their_counts() -> None:
    """Fifty calls at once: each counts its own attempts and gets its own delivery."""

    async def one(number: int) -> tuple[str, int]:
        made = 0

        async def attempt() -> Delivery:
            nonlocal made
            made += 1
            await asyncio.sleep(0)
            return NotSent(f"{number}/{made}") if made <= number % 4 else Answer(200, {"n": str(number)}, b"")

        loop = asyncio.get_running_loop()
        delivery = await send_with_retries(
            attempt,
            settings=Settings(attempts_max=3, backoff_initial_s=0, backoff_max_s=0),
            deadline=loop.time() + 60,
            monotonic=loop.time,
            now=lambda: datetime.now(UTC),
            give_up=lambda: False,
        )
        return (delivery.headers["n"] if isinstance(delivery, Answer) else str(getattr(delivery, "detail", ""))), made

    found = await asyncio.gather(*(one(number) for number in range(50)))
    assert found == [(f"{n}/3", 3) if n % 4 == 3 else (str(n), n % 4 + 1) for n in range(50)]
