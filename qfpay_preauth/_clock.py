"""The one place that asks the machine for the time, so that a simulation can answer instead."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Protocol

GATEWAY_TZ = timezone(timedelta(hours=8))
"""QFPay's own time is UTC+8 (gateway times carry no zone)."""


class Clock(Protocol):
    """What the building asks of time."""

    def now(self) -> datetime:
        """The wall clock, aware, in UTC: what entries and other processes compare."""
        ...

    def monotonic(self) -> float:
        """Seconds that never jump: what deadlines inside one process are measured in."""
        ...


class SystemClock:
    """The machine's own clocks, asked without a call of ours in between: every operation asks several times."""

    now = staticmethod(partial(datetime.now, UTC))
    monotonic = staticmethod(time.monotonic)
