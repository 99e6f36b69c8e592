"""The retry layer on success ÷ a whole capture, in CPU.

What it adds where the first attempt succeeds: a coroutine around the attempt, and the question whether that delivery
may be repeated. Too little to be seen between two runs of whole captures, so it is timed by itself, in a loop: attempts
that answer at once, with and without `send_with_retries`, A B B A; their difference, ÷ a capture with a ledger in
memory measured in the same run.
"""

from __future__ import annotations

from datetime import UTC, datetime

from benchmarks._measure import Cost, Figure, Plan, Work, alternate, requests_in_a_slice, spread_of
from benchmarks._scene import capturing, run_on, stub
from qfpay_preauth._models import Answer, Delivery
from qfpay_preauth._retry import send_with_retries
from qfpay_preauth._settings import Settings

TITLE = "The retry layer on success ÷ a whole capture, CPU"
TARGET = 0.01
TIMES = 50  # so many attempts for each capture: they are cheap
AT_ONCE = 16
_ANSWER = Answer(200, {}, b"{}")


def run(plan: Plan) -> list[Figure]:
    """One figure."""
    with stub() as url:
        costs = run_on("asyncio", _measure(url, plan.rounds))
    parts = [
        (layered.cpu - direct.cpu) / TIMES / capture.cpu
        for layered, direct, capture in zip(costs["layered"], costs["direct"], costs["capture"], strict=True)
    ]
    return [Figure("retry", "what it adds ÷ a capture (memory ledger, 16 at once)", spread_of(parts), TARGET)]


async def _measure(url: str, rounds: int) -> dict[str, list[Cost]]:
    async with capturing(url, AT_ONCE, "memory://") as capture:
        works: dict[str, Work] = {"direct": _direct, "layered": _layered, "capture": capture}
        return await alternate(works, requests_in_a_slice(AT_ONCE), rounds)


async def _attempt() -> Delivery:
    return _ANSWER


async def _direct(count: int) -> None:
    for _ in range(count * TIMES):
        await _attempt()


async def _layered(count: int) -> None:
    settings = Settings()
    for _ in range(count * TIMES):
        await send_with_retries(_attempt, settings=settings, deadline=60.0, monotonic=_zero, now=_now, give_up=_never)


def _zero() -> float:
    return 0.0


def _now() -> datetime:
    return datetime.now(UTC)


def _never() -> bool:
    return False
