"""One transaction as the verbs see it: what was loaded of the books, and what they write, which is flushed at the end.

The verbs are synchronous, and PostgreSQL is far away. So what they will ask for is loaded first, in few statements;
what turns out to be missing raises `Missing`, is loaded, and the verb runs again on the same snapshot, its writes
undone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from attrs import define, evolve, field, fields

from qfpay_preauth._models import (
    Authorization,
    Discrepancy,
    Entry,
    Event,
    Movement,
    Notification,
    Operation,
)
from qfpay_preauth.ledger import _postgres_rows as rows

Name: TypeAlias = tuple[str, str]
"""An account, and what names a row within it."""


@define
class Wants:
    """What has to be loaded. Holds are locked before anything is read, and so are those that the `via_*` lead to."""

    holds: set[Name] = field(factory=set)
    via_movements: set[Name] = field(factory=set)
    via_entries: set[Name] = field(factory=set)
    via_numbers: set[Name] = field(factory=set)
    entries: set[Name] = field(factory=set)
    unresolved: set[Name] = field(factory=set)
    of_hold: set[Name] = field(factory=set)
    numbers: set[Name] = field(factory=set)
    movements: set[Name] = field(factory=set)
    owning: set[Name] = field(factory=set)
    words: set[Name] = field(factory=set)
    notices: set[Name] = field(factory=set)
    digests: set[Name] = field(factory=set)

    def add(self, other: Wants) -> None:
        """Take over what another wants."""
        for name in _WANTED:
            if names := getattr(other, name):
                getattr(self, name).update(names)


_WANTED = tuple(each.name for each in fields(Wants))


class Missing(Exception):
    """The verb asked for something that was not loaded."""

    def __init__(self, **wants: set[Name]) -> None:
        super().__init__()
        self.wants = Wants(**wants)


ALL: Final = ""
"""In place of a name: whatever its name."""
_ABSENT: Final = object()


class Snapshot:
    """What was loaded, with the writes of this transaction's jobs on top; `undo` takes a job's writes back."""

    def __init__(self) -> None:
        self.authorizations: dict[Name, Authorization | None] = {}
        self.movements: dict[Name, Movement | None] = {}
        self.entries: dict[Name, Entry | None] = {}
        self.unresolved: dict[Name, tuple[str, ...]] = {}
        self.of_hold: dict[Name, tuple[str, ...]] = {}
        self.numbers: dict[Name, str | None] = {}
        self.owning: dict[Name, bool] = {}
        self.words: dict[str, dict[str, dict[str, bool]]] = {}
        self.notices: dict[Name, tuple[str, ...]] = {}
        self.notice_values: dict[Name, Notification] = {}
        self.digests: dict[Name, bool] = {}
        self.fingerprints: dict[Name, bool] = {}
        # of what was there: its revision, and the value as it was then
        self.revisions: dict[str, dict[Name, int]] = {"authorizations": {}, "movements": {}, "entries": {}}
        self.stored: dict[str, dict[Name, Any]] = {"authorizations": {}, "movements": {}, "entries": {}}
        # what is written
        self.changed: dict[str, dict[Name, None]] = {"authorizations": {}, "movements": {}, "entries": {}}
        self.put_of_hold: dict[Name, tuple[str, ...]] = {}
        self.put_numbers: dict[Name, str] = {}
        self.put_words: dict[tuple[str, str, str], bool] = {}
        self.put_discrepancies: dict[Name, tuple[datetime, Discrepancy]] = {}
        self.put_notices: dict[Name, tuple[datetime, Notification]] = {}
        self.ended_notices: dict[Name, None] = {}
        self.lowered: dict[str, datetime] = {}
        self.windows: dict[str, str] = {}
        self.events: list[Event] = []
        self._unsure: set[Name] = set()
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []

    # ------------------------------------------------------------------ for whoever loads, and runs the verbs

    def loaded(self, table: str, name: Name, value: Any, revision: int) -> None:
        """Take in a row; what is there already stays."""
        values = getattr(self, table)
        if name not in values:
            values[name] = self.stored[table][name] = value
            self.revisions[table][name] = revision

    def revision(self, table: str, name: Name, step: int) -> int:
        """The revision of a row once this transaction, which moves revisions by `step`, is committed."""
        found = self.revisions[table].get(name, 0)
        return found + step if name in self.changed[table] else found

    def mark(self) -> tuple[int, int]:
        """Where a job begins."""
        self._unsure = set()
        return len(self._undo), len(self.events)

    def undo(self, to: tuple[int, int]) -> None:
        """Take back everything that was written since `to`."""
        self._unsure = set()
        del self.events[to[1] :]
        while len(self._undo) > to[0]:
            table, key, old = self._undo.pop()
            if old is _ABSENT:
                del table[key]
            else:
                table[key] = old

    def unsure(self) -> set[Name]:
        """The fingerprints that the last job took for new without knowing it."""
        return self._unsure

    @property
    def written(self) -> bool:
        """Whether anything was."""
        return bool(self._undo or self.events)

    @property
    def values(self) -> tuple[dict[Name, Any], dict[Name, Any], dict[Name, Any]]:
        """The tables whose rows have revisions, in the order in which they are written."""
        return self.authorizations, self.entries, self.movements

    @property
    def weighed(self) -> bool:
        """Whether anything but holds, entries, movements and events was written."""
        noted = self.put_discrepancies or self.put_notices or self.ended_notices
        return bool(noted or self.put_words or self.lowered or self.windows)

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((table, key, table.get(key, _ABSENT)))
        table[key] = value

    # ------------------------------------------------------------------ what the verbs read

    def get_authorization(self, account: str, syssn: str) -> Authorization | None:
        name = (account, syssn)
        if name not in self.authorizations:
            raise Missing(holds={name})
        return self.authorizations[name]

    def get_movement(self, account: str, syssn: str) -> Movement | None:
        name = (account, syssn)
        if not syssn:
            return None
        if name not in self.movements:
            raise Missing(movements={name}, via_movements={name})
        return self.movements[name]

    def get_entry(self, account: str, idempotency_key: str) -> Entry | None:
        name = (account, idempotency_key)
        if name not in self.entries:
            raise Missing(entries={name}, via_entries={name})
        found = self.entries[name]
        return found if found is None or found.raw is None else evolve(found, raw=dict(found.raw))

    def get_unresolved(self, account: str, authorization: str) -> Sequence[Entry]:
        name = (account, authorization)
        if name not in self.unresolved:
            raise Missing(unresolved={name})
        return [entry for entry in self._entries(account, self.keys_of(name)) if entry.unresolved]

    def get_of_hold(self, account: str, authorization: str) -> Sequence[Entry]:
        name = (account, authorization)
        if name not in self.of_hold:
            raise Missing(of_hold={name})
        return self._entries(account, dict.fromkeys(self.of_hold[name] + self.put_of_hold.get(name, ())))

    def keys_of(self, hold: Name) -> Collection[str]:
        """The keys of the entries that may be unresolved on a hold."""
        loaded, put = self.unresolved[hold], self.put_of_hold.get(hold)
        return dict.fromkeys(loaded + put) if put else loaded

    def _entries(self, account: str, keys: Collection[str]) -> list[Entry]:
        found = [entry for key in keys if (entry := self.entries[account, key]) is not None]
        if len(found) > 1:
            found.sort(key=lambda entry: (entry.reserved_at, entry.idempotency_key))
        return found

    def get_by_number(self, account: str, out_trade_no: str) -> Entry | None:
        name = (account, out_trade_no)
        if name not in self.numbers:
            raise Missing(numbers={name}, via_numbers={name})
        key = self.numbers[name] or self.put_numbers.get(name)
        return None if key is None else self.get_entry(account, key)

    def owns_movement(self, account: str, idempotency_key: str) -> bool:
        name = (account, idempotency_key)
        if name not in self.owning:
            raise Missing(owning={name})
        return self.owning[name]

    def get_words(self, account: str) -> Mapping[str, Mapping[str, bool]]:
        if account not in self.words:
            raise Missing(words={(account, ALL)})
        return self.words[account]

    def get_open_notices(self, account: str, orig_syssn: str | None) -> Sequence[Notification]:
        name = (account, ALL)
        if name not in self.notices:
            name = (account, ALL if orig_syssn is None else orig_syssn)
        if name not in self.notices:
            raise Missing(notices={name})
        new = [digest for owner, digest in self.put_notices if owner == account]
        digests = [
            each for each in dict.fromkeys((*self.notices[name], *new)) if (account, each) not in self.ended_notices
        ]
        found = [self.notice_values[account, digest] for digest in digests]
        return [notice for notice in found if orig_syssn in (None, notice.orig_syssn)]

    def get_windows(self, name: str) -> str | None:
        return self.windows.get(name)

    # ------------------------------------------------------------------ what they write

    def put_authorization(self, authorization: Authorization) -> None:
        name = (authorization.account, authorization.syssn)
        if name not in self.authorizations:  # whether it is there decides how it is written
            raise Missing(holds={name})
        self._put("authorizations", self.authorizations, name, authorization)

    def put_movement(self, movement: Movement) -> None:
        name = (movement.account, movement.syssn)
        if name not in self.movements:
            raise Missing(movements={name}, via_movements={name})
        self._touch((movement.account, movement.authorization))
        self._put("movements", self.movements, name, movement)
        if movement.idempotency_key is not None:
            self._set(self.owning, (movement.account, movement.idempotency_key), True)

    def put_entry(self, entry: Entry) -> None:
        name = (entry.account, entry.idempotency_key)
        if name not in self.entries:
            raise Missing(entries={name}, via_entries={name})
        hold = (entry.account, entry.authorization)
        self._touch(hold)
        self._put("entries", self.entries, name, entry)
        if entry.idempotency_key not in (put := self.put_of_hold.get(hold, ())):
            self._set(self.put_of_hold, hold, (*put, entry.idempotency_key))
        if entry.out_trade_no is not None and entry.operation is not Operation.UNFREEZE:
            self._set(self.put_numbers, (entry.account, entry.out_trade_no), entry.idempotency_key)

    def _touch(self, hold: Name) -> None:
        """Whatever changes of a hold changes its revision too: by it others see whether what they read still holds."""
        if hold not in self.changed["authorizations"] and self.get_authorization(*hold) is not None:
            self._set(self.changed["authorizations"], hold, None)

    def _put(self, table: str, values: dict[Name, Any], name: Name, value: Any) -> None:
        self._undo.append((values, name, values.get(name, _ABSENT)))
        values[name] = value
        if name not in (changed := self.changed[table]):
            self._set(changed, name, None)

    def add_event(self, event: Event) -> None:
        self.events.append(event)

    def lower_bookmark(self, account: str, moment: datetime) -> None:
        self._set(self.lowered, account, min(moment, self.lowered.get(account, moment)))

    def put_word(self, account: str, kind: str, word: str, linked: bool) -> None:
        words = {each: dict(shown) for each, shown in self.get_words(account).items()}
        shown = words.setdefault(kind, {})
        if word in shown and shown[word] >= linked:
            return
        shown[word] = linked
        self._set(self.words, account, words)
        self._set(self.put_words, (account, kind, word), linked)

    def put_discrepancy(self, account: str, at: datetime, discrepancy: Discrepancy) -> bool:
        name = (account, rows.fingerprint(discrepancy))
        if self.fingerprints.get(name):
            return False
        if name not in self.fingerprints:
            self._unsure.add(name)  # taken for new: if it is not, the job runs again knowing better
        self._set(self.fingerprints, name, True)
        self._set(self.put_discrepancies, name, (at, discrepancy))
        return True

    def put_notice(self, account: str, at: datetime, notice: Notification) -> bool:
        name = (account, notice.digest)
        if name not in self.digests:
            raise Missing(digests={name})
        if self.digests[name]:
            return False
        self._set(self.digests, name, True)
        self._set(self.notice_values, name, notice)
        self._set(self.put_notices, name, (at, notice))
        return True

    def end_notice(self, account: str, digest: str) -> None:
        self._set(self.ended_notices, (account, digest), None)

    def put_windows(self, name: str, state: str) -> None:
        self._set(self.windows, name, state)
