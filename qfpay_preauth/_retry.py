"""What may be tried again: only what provably never left, and HTTP 429. A fresh tenacity object per use.

QFPay's capture has no idempotency key, so a lost answer is never a reason to send again.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from email.utils import parsedate_to_datetime

from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

from qfpay_preauth._models import Answer, Delivery, NotSent
from qfpay_preauth._settings import Settings

RETRY_AFTER_MAX_S = 86_400.0


def may_try_again(delivery: Delivery) -> bool:
    """Whether the gateway provably did not process it: nothing left, or it said 429 (QFPay, Rate limits)."""
    return isinstance(delivery, NotSent) or (isinstance(delivery, Answer) and delivery.status == 429)


def retry_after_s(delivery: Delivery, now: datetime) -> float | None:
    """The wait that a 429 asks for (RFC 9110, 10.2.3: seconds or a date); junk is ignored."""
    if not isinstance(delivery, Answer) or delivery.status != 429:
        return None
    text = str(delivery.headers.get("Retry-After", "")).strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return min(float(text), RETRY_AFTER_MAX_S)
    try:
        wait = (parsedate_to_datetime(text) - now).total_seconds()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(0.0, wait), RETRY_AFTER_MAX_S) if math.isfinite(wait) else None


async def send_with_retries(
    attempt: Callable[[], Awaitable[Delivery]],
    *,
    settings: Settings,
    deadline: float,
    monotonic: Callable[[], float],
    now: Callable[[], datetime],
    give_up: Callable[[], bool],
) -> Delivery:
    """The first attempt's delivery, or the last one's where attempts may be repeated.

    `deadline` is in monotonic seconds: no wait goes beyond it. `give_up` ends the retries (the caller left).
    """
    first = await attempt()
    if not may_try_again(first):
        return first
    return await send_again(
        first, attempt, settings=settings, deadline=deadline, monotonic=monotonic, now=now, give_up=give_up
    )


async def send_again(
    first: Delivery,
    attempt: Callable[[], Awaitable[Delivery]],
    *,
    settings: Settings,
    deadline: float,
    monotonic: Callable[[], float],
    now: Callable[[], datetime],
    give_up: Callable[[], bool],
) -> Delivery:
    """What comes after a first attempt that may be repeated: the last attempt's delivery."""
    if give_up() or settings.attempts_max == 1:
        return first
    ready = [first]  # tenacity's first attempt is the one that was already made, directly

    async def again() -> Delivery:
        return ready.pop() if ready else await attempt()

    jitter = wait_random_exponential(multiplier=settings.backoff_initial_s, max=settings.backoff_max_s)

    def wait(state: RetryCallState) -> float:
        return max(jitter(state), retry_after_s(_last(state), now()) or 0.0)

    def stop(state: RetryCallState) -> bool:
        late = monotonic() + state.upcoming_sleep >= deadline
        return late or give_up() or state.attempt_number >= settings.attempts_max

    retrying = AsyncRetrying(
        sleep=asyncio.sleep, wait=wait, stop=stop, retry=retry_if_result(may_try_again), retry_error_callback=_last
    )
    delivery: Delivery = await retrying(again)
    return delivery


def _last(state: RetryCallState) -> Delivery:
    assert state.outcome is not None  # noqa: S101 - tenacity asks only after an attempt
    delivery: Delivery = state.outcome.result()
    return delivery
