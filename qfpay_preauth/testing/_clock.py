"""A clock to be moved by hand, for a gateway whose hours pass in no time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class ManualClock:
    """Stands still until it is moved: ``Gateway(clock=ManualClock())``.

    Args:
        start: aware ``datetime``; the machine's time if ``None``, so that a client on the machine's clock agrees.

    Raises ``ValueError`` for a time without a zone.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._now = datetime.now(UTC)
        if start is not None:
            self.set(start)

    def __call__(self) -> datetime:
        return self._now

    def advance(self, by: timedelta | float) -> datetime:
        """Move on by a ``timedelta`` or by seconds; the new time. Raises ``ValueError`` if that is backwards."""
        step = by if isinstance(by, timedelta) else timedelta(seconds=by)
        if step < timedelta(0):
            raise ValueError(f"advance() goes forwards only, not by {step}; set() goes anywhere")
        self._now += step
        return self._now

    def set(self, moment: datetime) -> datetime:
        """Jump to a moment, an earlier one too; the new time."""
        if moment.utcoffset() is None:
            raise ValueError(f"the time needs a zone: {moment.isoformat()}")
        self._now = moment
        return self._now
