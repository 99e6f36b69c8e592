"""What the rules of evidence are told, and what they find: the values between the ledger and the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from attrs import field, frozen

from qfpay_preauth._models import Authorization, Discrepancy, Entry, Movement, Transaction, Verdict

MARGIN = timedelta(seconds=60)
"""How far the gateway's clock may be behind ours when a row is compared with a reservation."""

UNSURE = timedelta(minutes=15)
"""A row older than MARGIN before a reservation is not its entry's, but only one older than this is surely not."""

WINDOW_MARGIN = timedelta(hours=24)
"""How long after its capture window a hold is given before absence may mean that a capture lapsed."""

ABSENCES_NEEDED = 2


@frozen
class Known:
    """What the ledger knows about the rows in hand, read in one transaction after the gateway was read.

    `owning`: keys of the entries that a movement belongs to; `followed`: syssns that are surely captures, because a
    known capture comes after them or a refund names them; `new_holds`: the holds of rows that nobody here knows yet.
    """

    owners: Mapping[str, Movement]
    entries: Mapping[str, Entry]
    by_number: Mapping[str, Entry]
    authorizations: Mapping[str, Authorization]
    of_hold: Mapping[str, Sequence[Entry]]
    words: Mapping[str, frozenset[str]]
    linked_capture_shown: bool
    owning: frozenset[str] = frozenset()
    followed: frozenset[str] = frozenset()
    new_holds: Mapping[str, str] = field(factory=dict)


@frozen
class Findings:
    """What follows from the evidence; nothing is written yet."""

    verdicts: list[tuple[Entry, Verdict]] = field(factory=list)
    attention: dict[str, tuple[Entry, str]] = field(factory=dict)
    foreign: list[tuple[Transaction, str]] = field(factory=list)
    discrepancies: list[Discrepancy] = field(factory=list)
    words: set[tuple[str, str, bool]] = field(factory=set)
    absent: list[Entry] = field(factory=list)
    belonging: list[tuple[Transaction, Entry]] = field(factory=list)
    kinds: list[tuple[Movement, str]] = field(factory=list)
    confirmed: set[str] = field(factory=set)
    mentioned: set[str] = field(factory=set)
    pending: set[str] = field(factory=set)
