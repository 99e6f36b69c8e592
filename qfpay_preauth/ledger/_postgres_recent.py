"""What this process wrote last on its holds: a transaction of money that needs nothing else reads nothing at all.

It decides on what is remembered, and its one message locks the holds and writes. That is exactly right, because what
was remembered counts only where a write of the same transaction proves it: every change of anything that belongs to a
hold changes the hold's revision, the write is refused where the revision is another one, and no two states of a row
share a revision, even where a failover has lost one of them. What is taken for absent has to be inserted, which its
unique key refuses if it is there. A job that writes nothing, so each refusal and each replay, reads first.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve

from qfpay_preauth._frozen import passing
from qfpay_preauth._models import Authorization, Entry
from qfpay_preauth.ledger._postgres_snapshot import Name, Snapshot

HOLDS_MAX = 1_024
DISTRUST = 64  # transactions that read, after one whose hold another process had changed


@passing
class Recall:
    """What a job needs, where what is remembered may do.

    Args:
        hold, entry: which; a `new` entry is taken for absent where it is not among the hold's unresolved ones.
        result: the gateway's id that the job will write down as nobody else's.
    """

    hold: Name
    entry: Name
    new: bool = False
    result: Name | None = None


@passing
class _Kept:
    hold: Authorization
    revision: int
    keys: tuple[str, ...]
    unresolved: list[tuple[Name, Entry, int]]


class Recent:
    """The holds that were written last, on one event loop."""

    def __init__(self) -> None:
        self._kept: dict[Name, _Kept] = {}
        self._distrust = 0

    def knows(self, recall: Recall | None) -> bool:
        """Whether a job can be decided on what is remembered."""
        if recall is None or (kept := self._kept.get(recall.hold)) is None:
            return False
        return self._distrust == 0 and (recall.new or recall.entry[1] in kept.keys)

    def snapshot(self, recalls: Iterable[Recall]) -> Snapshot:
        """What is remembered for jobs that are all known."""
        snapshot = Snapshot()
        for recall in recalls:
            if recall.hold not in snapshot.authorizations:
                self._remind(snapshot, recall.hold)
            snapshot.entries.setdefault(recall.entry, None)
            if recall.result is not None:
                snapshot.movements[recall.result] = None
        return snapshot

    def _remind(self, snapshot: Snapshot, name: Name) -> None:
        kept = self._kept[name]
        snapshot.loaded("authorizations", name, kept.hold, kept.revision)
        snapshot.unresolved[name] = kept.keys
        for entry, value, revision in kept.unresolved:
            snapshot.loaded("entries", entry, value, revision)

    def keep(self, snapshot: Snapshot, step: int) -> None:
        """Remember what was committed, every revision moved by `step`."""
        for name in snapshot.changed["authorizations"]:
            self._kept.pop(name, None)
            hold = snapshot.authorizations[name]
            if hold is not None and name in snapshot.unresolved:
                unresolved = _unresolved(snapshot, name, step)
                keys = tuple([key for (_, key), *_ in unresolved])
                revision = snapshot.revision("authorizations", name, step)
                self._kept[name] = _Kept(hold, revision, keys, unresolved)
        while len(self._kept) > HOLDS_MAX:
            del self._kept[next(iter(self._kept))]
        self._distrust = max(0, self._distrust - 1)

    def forget(self, recalls: Iterable[Recall | None], *, changed: bool) -> None:
        """Their transaction failed; `changed`: it was decided on what is remembered, and somebody has changed it."""
        for recall in recalls:
            if recall is not None:
                self._kept.pop(recall.hold, None)
        if changed:
            self._distrust = DISTRUST


def _unresolved(snapshot: Snapshot, hold: Name, step: int) -> list[tuple[Name, Entry, int]]:
    kept = []
    for key in snapshot.keys_of(hold):
        entry = snapshot.entries[name := (hold[0], key)]
        if entry is not None and entry.unresolved:
            own = entry if entry.raw is None else evolve(entry, raw=dict(entry.raw))  # its caller holds that dict
            kept.append((name, own, snapshot.revision("entries", name, step)))
    return kept


def proven(snapshot: Snapshot) -> bool:
    """Whether what was decided on what is remembered will be refused unless that still holds."""
    changed, revisions = snapshot.changed, snapshot.revisions
    return (
        changed["authorizations"].keys() >= snapshot.authorizations.keys()
        and changed["entries"].keys() >= snapshot.entries.keys() - revisions["entries"].keys()
        and changed["movements"].keys() >= snapshot.movements.keys()
        and not snapshot.unsure()
    )
