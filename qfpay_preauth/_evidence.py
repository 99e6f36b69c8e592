"""Which entry, if any, a piece of evidence ends, and what is a discrepancy. Pure: the ledger applies what is found.

Linked evidence (our own number, or a syssn that an answer gave) speaks for its entry. An unlinked row can only ever
prove *executed*, and only if nothing else could be meant. Source: QFPay, Transaction Enquiry and Asynchronous
Notifications; the words of capture and unfreeze rows are not documented, so they count only once this account's own
answered operations have shown which word is which.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from attrs import evolve

from qfpay_preauth._absence import weigh_absence
from qfpay_preauth._codes import SUCCESS, CodeClass, classify
from qfpay_preauth._findings import MARGIN, UNSURE, Findings, Known
from qfpay_preauth._models import (
    Authorization,
    ConfirmedBy,
    Discrepancy,
    DiscrepancyKind,
    Entry,
    Judgement,
    Listing,
    Movement,
    Notification,
    Operation,
    Policy,
    State,
    Transaction,
    Verdict,
)

_REFUND_WORD = "refund"  # QFPay, Transaction Enquiry, order_type
_NEVER_CAPTURE = frozenset({_REFUND_WORD, "close", "cancel"})  # words of rows that give money back
_REFUSALS = (CodeClass.REFUSED, CodeClass.NOT_NOW, CodeClass.DENIED)


# ------------------------------------------------------------------------------------------------ rows


def weigh(listing: Listing, known: Known, policy: Policy) -> Findings:
    """Everything that a listing proves, given what is known."""
    found = Findings()
    known = _with_rows(listing, known)
    unlinked: list[Transaction] = []
    for row in _best_rows(listing.rows):
        named = known.by_number.get(row.out_trade_no or "")
        if named is not None and named.unresolved:
            _mention(row, named, found)  # even where the row turns out to be another entry's
        entry = _linked(row, known)
        if entry is not None:
            _weigh_linked(row, entry, known, found, listing.read_at)
        elif row.syssn in known.owners:
            _weigh_known(row, known.owners[row.syssn], known, found)
        else:
            unlinked.append(row)
    _weigh_unlinked(unlinked, listing, known, found)
    weigh_absence(listing, known, policy, found)
    return found


def _with_rows(listing: Listing, known: Known) -> Known:
    """What the rows say about each other: refunds name captures, and nothing is captured after an unfreeze."""
    refunded = {row.orig_syssn for row in listing.rows if row.code == SUCCESS and row.orig_syssn}
    # QFPay, Unfreeze: nothing can be captured afterwards; so a row that a known capture follows is no unfreeze
    last = _last_captures(listing, known)
    later = {row.syssn for row in listing.rows if last.get(row.orig_syssn or "", _NEVER) > _time(row)}
    new = {
        row.syssn: row.orig_syssn or ""
        for row in listing.rows
        if row.code == SUCCESS and row.orig_syssn in known.authorizations and row.syssn not in known.owners
    }
    shown = {kind: set(found) for kind, found in known.words.items()}
    for row in listing.rows:
        owner = known.owners.get(row.syssn)
        entry = known.entries.get(owner.idempotency_key or "") if owner else None
        if entry is not None and _shows_word(row, entry):
            shown.setdefault(entry.operation.value, set()).add(row.order_type or "")
    words = {kind: frozenset(found) for kind, found in shown.items()}
    surely = frozenset(later | (refunded & {row.syssn for row in listing.rows}))
    return evolve(known, followed=surely - set(known.authorizations), new_holds=new, words=words)


def _shows_word(row: Transaction, entry: Entry) -> bool:
    """Whether a row shows which word the gateway has for an operation of ours that it had answered itself."""
    answered = entry.state is State.EXECUTED and entry.confirmed_by is ConfirmedBy.ANSWER
    return answered and bool(row.order_type) and row.code == SUCCESS and not _contradiction(row, entry)


def _best_rows(rows: Iterable[Transaction]) -> list[Transaction]:
    """One row for each syssn, the successful one first (an enquiry may show several)."""
    best: dict[str, Transaction] = {}
    for row in rows:
        if row.syssn not in best or row.code == SUCCESS:
            best[row.syssn] = row
    return sorted(best.values(), key=lambda row: (row.code != SUCCESS, row.syssn))


def _linked(row: Transaction, known: Known) -> Entry | None:
    owner = known.owners.get(row.syssn)
    if owner is not None:
        return known.entries.get(owner.idempotency_key) if owner.idempotency_key else None
    return known.by_number.get(row.out_trade_no) if row.out_trade_no else None


def _weigh_known(row: Transaction, owner: Movement, known: Known, found: Findings) -> None:
    """A hold's own row, or one that was recorded as made elsewhere, and whose kind may be known only now."""
    kinds = _kinds(row, known)
    if owner.kind == "unknown" and row.orig_syssn is not None and len(kinds) == 1:
        found.kinds.append((owner, next(iter(kinds)).value))
    if row.amount not in (None, owner.amount):
        found.discrepancies.append(
            Discrepancy(
                DiscrepancyKind.AMOUNT_DIFFERS,
                owner.authorization,
                row.syssn,
                None,
                f"{owner.kind} of {owner.amount}",
                f"{row.amount}",
            )
        )


def _weigh_linked(row: Transaction, entry: Entry, known: Known, found: Findings, read_at: datetime) -> None:
    strange = _contradiction(row, entry)
    if entry.unresolved:
        _mention(row, entry, found)
    if strange:
        kind = DiscrepancyKind.AMOUNT_DIFFERS if strange == "amount" else DiscrepancyKind.MISMATCH
        _differs(found, kind, row, entry)
        if entry.unresolved:
            found.attention[entry.idempotency_key] = entry, f"its own row says another {strange}"
    elif entry.state is State.EXECUTED:
        _weigh_executed(row, entry, found)
    elif entry.unresolved:
        _weigh_doubt(row, entry, row.syssn in known.owners, found, read_at)
    elif row.code == SUCCESS:
        _differs(found, DiscrepancyKind.EXECUTED_THOUGH_ENDED, row, entry)
        found.foreign.append((row, entry.operation.value))


def _weigh_executed(row: Transaction, entry: Entry, found: Findings) -> None:
    if row.code == SUCCESS and entry.result_syssn in (None, row.syssn):
        found.confirmed.add(entry.idempotency_key)
        if _shows_word(row, entry):
            found.words.add((entry.operation.value, row.order_type or "", row.orig_syssn is not None))
    elif row.code == SUCCESS:
        _differs(found, DiscrepancyKind.MISSING_HERE, row, entry)  # our number was executed a second time
        found.foreign.append((row, entry.operation.value))
    elif row.syssn == entry.result_syssn and classify(row.code or "", row.message or "") in _REFUSALS:
        _differs(found, DiscrepancyKind.REFUSED_THOUGH_EXECUTED, row, entry)


def _weigh_doubt(row: Transaction, entry: Entry, by_syssn: bool, found: Findings, read_at: datetime) -> None:
    """A linked row of an entry in doubt: done, refused, or (pending and unclear codes) to be asked again."""
    if not entry.doubtful(read_at):
        return
    kind = classify(row.code or "", row.message or "")
    if kind is CodeClass.SUCCESS:
        found.verdicts.append((entry, executed(row.syssn, ConfirmedBy.ENQUIRY, row)))
        return
    # a refusal under our own number may be an earlier attempt's: it speaks only for a first and only attempt
    first = entry.attempt == 1 and row.system_time is not None and row.system_time >= entry.reserved_at - MARGIN
    if kind in _REFUSALS and (by_syssn or first):
        found.verdicts.append((entry, _refused(row, kind)))
    elif kind is not CodeClass.PENDING and read_at >= entry.doubt_at:
        found.attention[entry.idempotency_key] = entry, f"its row says code {row.code}, which leaves the outcome open"


def executed(syssn: str | None, by: ConfirmedBy, source: Transaction | Notification) -> Verdict:
    return Verdict(
        Judgement.EXECUTED,
        code=source.code,
        message=source.message if isinstance(source, Transaction) else None,
        result_syssn=syssn,
        system_time=source.system_time,
        raw=dict(source.raw),
        confirmed_by=by,
    )


def _refused(row: Transaction, kind: CodeClass) -> Verdict:
    return Verdict(
        Judgement.DECLINED,
        code=row.code,
        message=row.message,
        detail="refused, as the enquiry shows",
        raw=dict(row.raw),
        rerunnable=kind is CodeClass.NOT_NOW,
        confirmed_by=ConfirmedBy.ENQUIRY,
    )


def _contradiction(row: Transaction, entry: Entry) -> str:
    """In what a row and the entry that it is linked to differ; "" for nothing."""
    if row.unreadable:
        return "value, one that cannot be read"
    if row.orig_syssn not in (None, entry.syssn):
        return "original"
    if row.amount not in (None, entry.amount):
        return "amount"
    if row.currency not in (None, entry.currency):
        return "currency"
    never = entry.operation is Operation.CAPTURE and row.order_type in _NEVER_CAPTURE
    if never or (entry.operation is Operation.UNFREEZE and row.order_type == _REFUND_WORD):
        return "kind"
    return ""


def _differs(found: Findings, kind: DiscrepancyKind, row: Transaction, entry: Entry) -> None:
    ours = f"{entry.operation.value} of {entry.amount} {entry.currency}, {entry.state.value}"
    theirs = f"{row.order_type or 'row'} of {row.amount} {row.currency}, code {row.code}"
    key = entry.idempotency_key
    found.discrepancies.append(Discrepancy(kind, entry.authorization, row.syssn, key, ours, theirs))


# ------------------------------------------------------------------------------------------------ unlinked rows


def _weigh_unlinked(rows: Sequence[Transaction], listing: Listing, known: Known, found: Findings) -> None:
    groups: dict[tuple[str, int], list[Transaction]] = defaultdict(list)
    open_ones: dict[str, list[Entry]] = defaultdict(list)
    for entries in known.of_hold.values():
        for entry in entries:
            if entry.unresolved:
                open_ones[entry.syssn].append(entry)
    for row in rows:
        _mention_all(row, open_ones, known, found)
        placed = row.orig_syssn is not None and row.amount is not None and _hold_of(row, known) is not None
        if placed and row.code == SUCCESS:
            groups[row.orig_syssn or "", row.amount or 0].append(row)
    for group in groups.values():
        _weigh_group(group, listing, known, found)


def _hold_of(row: Transaction, known: Known) -> str | None:
    """The authorization that a row belongs to: its original is one of ours, or a capture of one."""
    if row.orig_syssn in known.authorizations:
        return row.orig_syssn
    owner = known.owners.get(row.orig_syssn or "")
    if owner is not None:
        return owner.authorization if owner.kind != Operation.REFUND else None
    return known.new_holds.get(row.orig_syssn or "")


def _mention(row: Transaction, entry: Entry, found: Findings) -> None:
    """A row that might be an entry's: the entry is not absent, and if the row is pending, it is asked again."""
    found.mentioned.add(entry.idempotency_key)
    if classify(row.code or "") is CodeClass.PENDING:
        found.pending.add(entry.idempotency_key)


def _mention_all(row: Transaction, open_ones: Mapping[str, Sequence[Entry]], known: Known, found: Findings) -> None:
    """Whatever its code and whatever it leaves out, a row that might be an entry's keeps it from being absent."""
    if row.orig_syssn is None:
        candidates = [entry for group in open_ones.values() for entry in group]
    else:
        kinds = _kinds(row, known)
        candidates = [entry for entry in open_ones.get(row.orig_syssn, ()) if entry.operation in kinds]
    for entry in candidates:
        in_time = (row.system_time or entry.reserved_at) >= entry.reserved_at - UNSURE
        if row.amount in (None, entry.amount) and in_time:
            _mention(row, entry, found)


def _weigh_group(rows: list[Transaction], listing: Listing, known: Known, found: Findings) -> None:
    """Successful rows of one original and one amount, against the entries that they could be."""
    hold = _hold_of(rows[0], known) or ""
    entries = known.of_hold.get(hold, ())
    taken = {entry.idempotency_key for entry, _ in found.verdicts}
    open_ones = [entry for entry in entries if entry.unresolved and entry.idempotency_key not in taken]
    possible = [entry for entry in open_ones if any(_fits(row, entry, known) for row in rows)]
    fitting = [row for row in rows if any(_fits(row, entry, known) for entry in possible)]
    for row in rows:
        if row not in fitting:
            _made_elsewhere(row, entries, known, found)
    if not possible:
        return
    bare = [entry for entry in entries if _is_bare(entry, known) and any(_fits(row, entry, known) for row in rows)]
    why = (
        "a decided entry without a syssn could be meant as well"
        if bare
        else _why_unsure(fitting, possible, open_ones, listing, known)
    )
    if not why:
        for row, entry in zip(sorted(fitting, key=_time), sorted(possible, key=_reserved), strict=True):
            found.verdicts.append((entry, executed(row.syssn, ConfirmedBy.ENQUIRY, row)))
        return
    for entry in possible:
        if entry.doubtful(listing.read_at) and why != _PARTIAL:
            found.attention[entry.idempotency_key] = entry, why


def _fits(row: Transaction, entry: Entry, known: Known) -> bool:
    """Whether a row could be an entry's; what it leaves out does not speak against it (but see `_why_unsure`)."""
    return (
        entry.operation in _kinds(row, known)
        and (row.orig_syssn, row.amount) == (entry.syssn, entry.amount)
        and row.currency in (None, entry.currency)
        and entry.result_syssn in (None, row.syssn)  # a pending answer may have named the only one it can be
        and not (numbered(entry) and other_number(row.out_trade_no, entry, known))
        and (row.system_time is None or row.system_time >= entry.reserved_at - UNSURE)
    )


def other_number(number: str | None, entry: Entry, known: Known) -> bool:
    """Whether a row carries a number that is neither ours nor the hold's (which says nothing)."""
    return number not in (None, entry.out_trade_no, known.authorizations[entry.authorization].out_trade_no)


def numbered(entry: Entry) -> bool:
    """Whether its out_trade_no is a number of ours (an unfreeze carries the authorization's)."""
    return entry.out_trade_no is not None and entry.operation is not Operation.UNFREEZE


def _kinds(row: Transaction, known: Known) -> frozenset[Operation]:
    """What a row could be. Refunds are documented; capture and unfreeze words are only known once they were shown."""
    if row.orig_syssn not in known.authorizations:
        return frozenset({Operation.REFUND})
    word = row.order_type or ""
    if word in _NEVER_CAPTURE:
        return frozenset() if word == _REFUND_WORD else frozenset({Operation.UNFREEZE})
    if row.syssn in known.followed:
        return frozenset({Operation.CAPTURE})
    captures, unfreezes = known.words.get("capture", frozenset()), known.words.get("unfreeze", frozenset())
    if captures and unfreezes and (word in captures) != (word in unfreezes):
        return frozenset({Operation.CAPTURE if word in captures else Operation.UNFREEZE})
    return frozenset({Operation.CAPTURE, Operation.UNFREEZE})


_PARTIAL = "the enquiry did not cover its whole time"


def _is_bare(entry: Entry, known: Known) -> bool:
    """A person decided that it happened, and nobody knows its syssn yet."""
    return entry.state is State.EXECUTED and entry.result_syssn is None and entry.idempotency_key not in known.owning


def _why_unsure(  # noqa: PLR0911 - one reason a line, in the order in which they are checked
    rows: Sequence[Transaction],
    entries: Sequence[Entry],
    open_ones: Sequence[Entry],
    listing: Listing,
    known: Known,
) -> str:
    """Why these rows do not prove these entries; "" if they do."""
    if not listing.complete or any(listing.since > entry.reserved_at - MARGIN for entry in entries):
        return _PARTIAL
    if not all(entry.doubtful(listing.read_at) for entry in entries):
        return "one of the entries that could be meant may still be under way"
    if len(rows) != len(entries):
        return f"{len(rows)} rows and {len(entries)} entries of this amount could belong together"
    if any(row.system_time is None or not _fits(row, entry, known) for row in rows for entry in entries):
        return "a row does not say when it happened"
    if any(row.currency is None or row.unreadable for row in rows):
        return "a row does not say its currency"
    if any(_time(row) < entry.reserved_at - MARGIN for row in rows for entry in entries):
        return "a row fits, but it seems to be older than the entry"
    captures_open = any(entry.operation is Operation.CAPTURE for entry in open_ones)
    for row in rows:
        sure = len(_kinds(row, known)) == 1
        # a row of the whole remainder while an unfreeze, and no capture, is in doubt can be nothing else of ours
        whole = entries[0].operation is Operation.UNFREEZE and not captures_open
        if not sure and not whole:
            return "a row fits, but the gateway's word for it does not tell a capture from an unfreeze"
    return ""


def _last_captures(listing: Listing, known: Known) -> dict[str, datetime]:
    """For each hold, when the last capture that is known to be one happened."""
    last: dict[str, datetime] = {}
    for row in listing.rows:
        owner = known.owners.get(row.syssn)
        if owner is not None and owner.kind == Operation.CAPTURE and owner.executed and row.code == SUCCESS:
            last[owner.authorization] = max(_time(row), last.get(owner.authorization, _NEVER))
    return last


def _time(row: Transaction) -> datetime:
    return row.system_time or _NEVER


def _reserved(entry: Entry) -> datetime:
    return entry.reserved_at


_NEVER = datetime.fromisoformat("1970-01-01T00:00:00+00:00")


def _made_elsewhere(row: Transaction, entries: Sequence[Entry], known: Known, found: Findings) -> None:
    """A successful row that can be no open entry of ours: recorded apart, and a contradiction if one ended."""
    for entry in entries:
        free = _is_bare(entry, known) and all(entry is not each for _, each in found.belonging)
        if free and _fits(row, entry, known):
            found.belonging.append((row, entry))  # a person decided without knowing its syssn: this is it
            return
    kinds = _kinds(row, known)
    kind = next(iter(kinds)).value if len(kinds) == 1 else "unknown"
    ended = [entry for entry in entries if entry.state is State.NOT_EXECUTED and _fits(row, entry, known)]
    if ended:
        _differs(found, DiscrepancyKind.EXECUTED_THOUGH_ENDED, row, ended[0])
    else:
        theirs = f"{row.order_type or 'row'} of {row.amount} {row.currency}"
        hold = _hold_of(row, known)
        found.discrepancies.append(
            Discrepancy(DiscrepancyKind.MISSING_HERE, hold, row.syssn, None, "no such movement", theirs)
        )
    found.foreign.append((row, kind))


def kinds_of(rows: Sequence[Transaction], hold: Authorization, words: Mapping[str, frozenset[str]]) -> dict[str, str]:
    """What each successful row of a hold is: refunds name a capture; nothing follows an unfreeze, so only the last of
    the others may be one, and what it is counts as "unknown" where the words do not tell."""
    captures, unfreezes = words.get("capture", frozenset()), words.get("unfreeze", frozenset())
    of_hold = sorted((row for row in rows if row.orig_syssn == hold.syssn), key=_time)
    kinds = {row.syssn: Operation.REFUND.value for row in rows}
    refunded = {row.orig_syssn for row in rows}
    for row in of_hold:
        word = row.order_type or ""
        told = captures and unfreezes and (word in captures) != (word in unfreezes)
        if row.syssn in refunded:
            kinds[row.syssn] = Operation.CAPTURE.value  # a refund names a capture
        elif told:
            kinds[row.syssn] = Operation.CAPTURE.value if word in captures else Operation.UNFREEZE.value
        else:
            last = _time(row) == _time(of_hold[-1])
            kinds[row.syssn] = "unknown" if last else Operation.CAPTURE.value
    return kinds
