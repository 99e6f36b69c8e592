"""What each verb will surely ask for, step by step, so that it is loaded in few statements. Nothing depends on it but
speed: whatever a verb asks for beyond it is loaded when it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from qfpay_preauth._models import (
    Authorization,
    Entry,
    Judgement,
    Listing,
    Notification,
    Operation,
    Request,
    State,
    Transaction,
    Verdict,
)
from qfpay_preauth.ledger._postgres_recent import Recall
from qfpay_preauth.ledger._postgres_snapshot import ALL, Name, Snapshot, Wants

Plan = Callable[[Snapshot], Iterator[Wants]]


def hold(account: str, syssn: str) -> Plan:
    """A hold, what its id belongs to, and its unresolved entries."""

    def plan(seen: Snapshot) -> Iterator[Wants]:
        name = {(account, syssn)}
        yield Wants(holds=name, movements=set(name), unresolved=set(name))

    return plan


def movement(account: str, syssn: str) -> Plan:
    """To whom an id belongs."""

    def plan(seen: Snapshot) -> Iterator[Wants]:
        yield Wants(movements={(account, syssn)})

    return plan


def entry(account: str, key: str) -> Plan:
    """The entry of a key."""

    def plan(seen: Snapshot) -> Iterator[Wants]:
        yield Wants(entries={(account, key)})

    return plan


def recall_to_reserve(request: Request) -> Recall | None:
    """A hold that is remembered is enough to reserve on it; for a refund its capture would be needed too."""
    if request.operation is Operation.REFUND:
        return None
    return Recall((request.account, request.syssn), (request.account, request.idempotency_key), new=True)


def recall_to_conclude(ended: Entry, verdict: Verdict) -> Recall | None:
    """The same for an end that needs no other row: not a refund's, and not a doubt, which is held against notices."""
    if ended.operation is Operation.REFUND or verdict.judgement is Judgement.IN_DOUBT:
        return None
    account, result = ended.account, verdict.result_syssn
    hold, entry = (account, ended.authorization), (account, ended.idempotency_key)
    return Recall(hold, entry, result=(account, result) if result else None)


def reserve(request: Request) -> Plan:
    """The key's entry, the hold, what is unresolved on it; for a refund also the capture, which leads to the hold."""
    account, syssn = request.account, request.syssn
    key = (account, request.idempotency_key)

    def plan(seen: Snapshot) -> Iterator[Wants]:
        if request.operation is not Operation.REFUND:
            yield Wants(holds={(account, syssn)}, entries={key}, unresolved={(account, syssn)})
            return
        yield Wants(entries={key}, movements={(account, syssn)}, via_movements={(account, syssn)})
        capture = seen.movements.get((account, syssn))
        if capture is not None:
            yield Wants(unresolved={(account, capture.authorization)})

    return plan


def conclude(ended: Entry, verdict: Verdict) -> Plan:
    """The entry, its hold, whose the result's id is; a refund's capture; what may be told of an entry left in doubt."""
    account = ended.account

    def plan(seen: Snapshot) -> Iterator[Wants]:
        wants = Wants(holds={(account, ended.authorization)}, entries={(account, ended.idempotency_key)})
        if verdict.result_syssn:
            wants.movements.add((account, verdict.result_syssn))
        if ended.operation is Operation.REFUND:
            wants.movements.add((account, ended.syssn))
        if verdict.judgement is Judgement.IN_DOUBT:
            wants.notices.add((account, ended.syssn))
        yield wants

    return plan


def observe(account: str, listing: Listing, asked: Sequence[str]) -> Plan:
    """Everything that the rows name, everything on the holds that this leads to, and all open notifications."""
    syssns = {(account, each) for row in listing.rows for each in (row.syssn, row.orig_syssn) if each}
    numbers = {(account, row.out_trade_no) for row in listing.rows if row.out_trade_no}
    return _evidence(account, syssns, numbers, asked, Wants(notices={(account, ALL)}))


def notice(account: str, notification: Notification) -> Plan:
    """The same for the one thing that a notification names."""
    syssns = {(account, each) for each in (notification.syssn, notification.orig_syssn) if each}
    numbers = {(account, notification.out_trade_no)} if notification.out_trade_no else set()
    first = Wants(digests={(account, notification.digest)})
    return _evidence(account, syssns, numbers, (), first)


def adopt(authorization: Authorization, rows: Sequence[Transaction]) -> Plan:
    """The hold, and whose the rows are."""
    account, syssn = authorization.account, authorization.syssn

    def plan(seen: Snapshot) -> Iterator[Wants]:
        ids = {(account, each) for row in rows for each in (row.syssn, row.orig_syssn) if each}
        wants = Wants(holds={(account, syssn)}, unresolved={(account, syssn)}, words={(account, ALL)})
        wants.movements |= ids | {(account, syssn)}
        yield wants

    return plan


def sweep(account: str) -> Plan:
    """All open notifications, and whose the ids are that they name."""

    def plan(seen: Snapshot) -> Iterator[Wants]:
        yield Wants(notices={(account, ALL)})
        open_ones = seen.get_open_notices(account, None)
        yield Wants(movements={(account, each.syssn) for each in open_ones if each.syssn})

    return plan


def _evidence(account: str, syssns: set[Name], numbers: set[Name], asked: Sequence[str], first: Wants) -> Plan:
    keys = {(account, key) for key in asked}

    def plan(seen: Snapshot) -> Iterator[Wants]:
        first.add(
            Wants(
                via_movements=syssns,
                via_numbers=numbers,
                via_entries=keys,
                movements=syssns,
                numbers=numbers,
                entries=keys,
                words={(account, ALL)},
            )
        )
        yield first
        yield _of_what_was_found(seen, account, syssns, numbers, keys)
        found = [entry for entry in seen.entries.values() if entry is not None and entry.state is State.EXECUTED]
        yield Wants(owning={(each.account, each.idempotency_key) for each in found if each.result_syssn is None})

    return plan


def _of_what_was_found(seen: Snapshot, account: str, syssns: set[Name], numbers: set[Name], keys: set[Name]) -> Wants:
    owners = [owner for name in syssns if (owner := seen.movements.get(name)) is not None]
    entries = [entry for name in keys if (entry := seen.entries.get(name)) is not None]
    named = [(account, key) for name in numbers if (key := seen.numbers.get(name)) is not None]
    numbered = [entry for name in named if (entry := seen.entries.get(name)) is not None]
    holds = {(account, owner.authorization) for owner in owners}
    holds |= {(account, each.authorization) for each in (*entries, *numbered)}
    told = [seen.notice_values[account, digest] for digest in seen.notices.get((account, ALL), ())]
    return Wants(
        holds=holds,
        of_hold=holds,
        entries={(account, owner.idempotency_key) for owner in owners if owner.idempotency_key},
        movements={(account, each.syssn) for each in (*entries, *numbered)}
        | {(account, each) for notice in told for each in (notice.syssn, notice.orig_syssn) if each},
        notices={(account, each.syssn) for each in entries},
    )
