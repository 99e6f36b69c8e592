"""What absence from the gateway's list means: almost nothing. Pure.

Source: QFPay, Transaction Enquiry (an empty list never means "failed"), and Pre-Authorisation (the capture window).
"""

from __future__ import annotations

from datetime import datetime

from qfpay_preauth._findings import ABSENCES_NEEDED, MARGIN, WINDOW_MARGIN, Findings, Known
from qfpay_preauth._models import (
    Authorization,
    ConfirmedBy,
    Entry,
    Judgement,
    Listing,
    Operation,
    Policy,
    Verdict,
    Why,
)


def weigh_absence(listing: Listing, known: Known, policy: Policy, found: Findings) -> None:
    """Absence is not a no. It ends a doubt only past the quiet period (or the window) and only where the enquiry has
    ever shown, linked, an answered capture of this account; the ledger counts two such enquiries. Where it can never
    end a doubt, a person has to look."""
    if not listing.complete:
        return
    decided = {entry.idempotency_key for entry, _ in found.verdicts}
    for hold, entries in known.of_hold.items():
        for entry in entries:
            asked = entry.doubtful(listing.read_at) and listing.since <= entry.reserved_at - MARGIN
            if not asked or entry.idempotency_key in decided:
                continue
            if entry.idempotency_key in found.mentioned:
                _mentioned_only(entry, listing, found)
                continue
            why = _never_absent(entry, known.authorizations[hold], known, policy)
            if not why and _long_enough(entry, known.authorizations[hold], listing.read_at, policy):
                found.absent.append(entry)
            elif why and listing.read_at >= entry.doubt_at:
                found.attention[entry.idempotency_key] = entry, why


def _mentioned_only(entry: Entry, listing: Listing, found: Findings) -> None:
    """A row might be this entry's and does not prove it: unless it is still pending, that will hardly change."""
    key = entry.idempotency_key
    if listing.read_at >= entry.doubt_at and key not in found.pending and key not in found.attention:
        found.attention[key] = entry, "a row might be it, but does not say enough to prove it"


def _never_absent(entry: Entry, hold: Authorization, known: Known, policy: Policy) -> str:
    """Why absence will never end this doubt; "" where it may."""
    if entry.result_syssn is not None:
        return f"the gateway named it {entry.result_syssn}, and does not show it"
    if not known.linked_capture_shown:
        return "the gateway does not show it, nor has it ever shown an answered capture of this account"
    lapses = entry.operation is not Operation.REFUND and hold.expires_at(policy.default_window) is not None
    if policy.quiet_period is None and not lapses:
        return "the gateway does not show it, and without quiet_period_s absence ends nothing"
    return ""


def _long_enough(entry: Entry, hold: Authorization, at: datetime, policy: Policy) -> bool:
    quiet = policy.quiet_period is not None and at >= entry.doubt_at + policy.quiet_period
    return quiet or _window_over(entry, hold, at, policy)


def _window_over(entry: Entry, hold: Authorization, at: datetime, policy: Policy) -> bool:
    ends = hold.expires_at(policy.default_window)
    return entry.operation is not Operation.REFUND and ends is not None and at >= ends + WINDOW_MARGIN


def absent_verdict(entry: Entry, hold: Authorization, at: datetime, policy: Policy) -> Verdict:
    """What absence from enough complete enquiries means for an entry."""
    lapsed = _window_over(entry, hold, at, policy)
    return Verdict(
        Judgement.NOT_SENT,
        why=Why.LAPSED if lapsed else Why.NOT_SENT,
        rerunnable=not lapsed,
        detail=f"absent from {ABSENCES_NEEDED} complete enquiries after "
        + ("the capture window" if lapsed else "the quiet period"),
        confirmed_by=ConfirmedBy.ENQUIRY,
    )
