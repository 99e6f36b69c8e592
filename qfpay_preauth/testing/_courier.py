"""Which notifications are due, and what an answer means for them. Pure: no socket, no clock (``now`` is passed in)."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import attrs

from ._faults import Faults, Rule
from ._records import Hold, Record


@attrs.frozen(kw_only=True, eq=False)
class Letter:
    """One notification on its way: ``attempt`` counts from 1, ``behind`` lets all others that are due go first."""

    number: int
    syssn: str
    operation: str
    params: Mapping[str, str]
    body: bytes
    headers: Mapping[str, str]
    due: datetime
    attempt: int = 1
    behind: bool = False


@attrs.frozen(kw_only=True)
class Delivery:
    """One POST of a notification: what was sent (``fault``: how it was spoiled) and what was answered (``status`` 0:
    nothing). A lost one was not sent and has no bytes."""

    at: datetime
    syssn: str
    attempt: int
    body: bytes
    headers: Mapping[str, str]
    status: int
    text: bytes
    fault: str | None

    @property
    def acknowledged(self) -> bool:
        """HTTP 200 with the body ``SUCCESS``; everything else is delivered again."""
        return self.status == 200 and self.text == b"SUCCESS"


@attrs.frozen(kw_only=True)
class Round:
    """What ``Gateway.deliver_due`` did: notifications ``posted``, and how many of those posts were acknowledged."""

    posted: int = 0
    acknowledged: int = 0


class Courier:
    """The letters that wait, earliest first; ``deliveries``, every post made; ``given_up``, the syssn of each letter
    that was never acknowledged."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.given_up: list[str] = []
        self._heap: list[tuple[datetime, bool, int, Letter]] = []
        self._letters = 0

    def __len__(self) -> int:
        """How many letters wait."""
        return len(self._heap)

    @property
    def next_due(self) -> datetime | None:
        """When the next letter is due, ``None`` if none waits."""
        return self._heap[0][0] if self._heap else None

    def add(self, record: Record, body: bytes, headers: Mapping[str, str], due: datetime) -> None:
        """Take a notification in. Faults are matched as for the request that moved the money."""
        syssn = record.syssn if isinstance(record, Hold) else record.orig_syssn
        self._letters += 1
        letter = Letter(
            number=self._letters,
            syssn=record.syssn,
            operation="hold" if isinstance(record, Hold) else record.kind,
            params={"syssn": syssn, "txamt": str(record.amount), "out_trade_no": record.out_trade_no},
            body=body,
            headers=headers,
            due=due,
        )
        self.put_back(letter)

    def take(self, now: datetime, faults: Faults) -> tuple[Letter, Rule | None] | None:
        """The next letter that is due, with the fault that strikes it. The taker owes an ``answered`` or a
        ``put_back``."""
        while self._heap and self._heap[0][0] <= now:
            letter = heapq.heappop(self._heap)[-1]
            rule = None if letter.behind else faults.pick_notice(letter.operation, letter.params)
            if rule is None or rule.kind != "notice_reordered":
                return letter, rule
            later = now + timedelta(seconds=rule.seconds or 0)
            self.put_back(attrs.evolve(letter, behind=True, due=later))
        return None

    def put_back(self, letter: Letter) -> None:
        """A letter that waits, again."""
        heapq.heappush(self._heap, (letter.due, letter.behind, letter.number, letter))

    def answered(self, letter: Letter, acknowledged: bool, now: datetime, redelivery: Sequence[timedelta]) -> None:
        """What comes after a delivery: nothing if it was acknowledged, another one after the schedule's pause, or
        none any more."""
        if acknowledged:
            return
        if letter.attempt > len(redelivery):
            self.given_up.append(letter.syssn)
            return
        due = now + redelivery[letter.attempt - 1]
        self.put_back(attrs.evolve(letter, attempt=letter.attempt + 1, due=due, behind=False))
