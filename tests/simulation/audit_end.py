"""What the auditor asks at the end of a run: do both sides' books agree, and is every doubt ended or listed."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from qfpay_preauth._models import Entry, Operation, State
from qfpay_preauth.testing._config import linked
from qfpay_preauth.testing._records import Movement as Moved
from tests.simulation.store import at_once

if TYPE_CHECKING:
    from tests.simulation.drawing import Scenario
    from tests.simulation.site import Site


def books(site: Site) -> None:
    """Safety, at any moment: I7 as a fold of the history, and everything unresolved is listed."""
    auditor = site.auditor
    sums: defaultdict[tuple[str, str], int] = defaultdict(int)
    for event in auditor.events:
        if event.kind in ("capture", "unfreeze", "refund"):
            for state, sign in ((event.from_state, -1), (event.to_state, 1)):
                if state in (State.HELD, State.IN_DOUBT):
                    sums[event.authorization, f"{event.kind} claimed"] += sign * event.amount
                elif state is State.EXECUTED:
                    sums[event.authorization, f"{event.kind} done"] += sign * event.amount
        elif event.kind == "foreign":
            kind = "refund" if event.detail.startswith("refund") else "taken"
            sums[event.authorization, f"foreign {kind}"] += event.amount
    for hold in auditor.holds.values():
        folded = {
            "claimed": sums[hold.syssn, "capture claimed"] + sums[hold.syssn, "unfreeze claimed"],
            "captured": sums[hold.syssn, "capture done"],
            "unfrozen": sums[hold.syssn, "unfreeze done"],
            "refunded": sums[hold.syssn, "refund done"],
        }
        foreign = hold.foreign_captured + hold.foreign_unfrozen
        if any(getattr(hold, name) != value for name, value in folded.items()):
            auditor.fail("I7", f"{hold.syssn}: the history adds up to {folded}")
        if foreign != sums[hold.syssn, "foreign taken"]:
            auditor.fail("I7", f"{hold.syssn}: foreign is {foreign}, the history says otherwise")
    _listed(site)


def _listed(site: Site) -> None:
    world = site.world
    far = world.scenario.start.replace(year=world.scenario.start.year + 1)
    listed = {entry.idempotency_key for entry in at_once(world.store.doubts(site.account, far, None, 1000))}
    unresolved = {entry.idempotency_key for entry in site.auditor.entries.values() if entry.unresolved}
    if listed != unresolved:
        site.auditor.fail("I12", f"unresolved {sorted(unresolved)}, listed {sorted(listed)}")


def doubts(site: Site) -> None:
    """I12: after the calm, what is still in doubt is marked, or no rule could have ended it."""
    for entry in site.auditor.entries.values():
        if entry.unresolved and entry.attention is None and not _endless(site.world.scenario, entry):
            site.auditor.fail("I12", f"{entry.idempotency_key} is still {entry.state.value}, and nobody is told")


def _endless(scenario: Scenario, entry: Entry) -> bool:
    """Whether a doubt may stay without anybody being told."""
    lapses = scenario.window is not None and entry.operation is not Operation.REFUND
    return lapses and "lapse" not in scenario.on  # it may still lapse with its window


def _visible(site: Site, moved: Moved) -> bool:
    """Whether the enquiry shows a movement, and names its original."""
    return moved.syssn not in site.core.books.hidden and linked(site.core.config.link_rows, moved.kind)


def agreement(site: Site) -> None:
    """After the calm: every movement of the gateway's is in our books, or may be a doubt's, or is listed as a
    difference; and a wrong decision of a person has been reported."""
    auditor = site.auditor
    listed = {each.syssn for each in auditor.discrepancies}
    for moved in auditor.gateway.values():
        if moved.hold_syssn not in auditor.holds or not _visible(site, moved):
            continue
        ours = auditor.movements.get(moved.syssn)
        if moved.kind == "refund" and moved.orig_syssn not in auditor.movements:
            continue  # a refund of a capture that is itself still in doubt
        known = ours is not None and ours.executed
        told = moved.syssn in listed and not moved.portal
        if not known and not told and not _may_be_a_doubts(site, moved):
            auditor.fail("I12", f"the gateway's {moved.kind} {moved.syssn} of {moved.amount} is nowhere in our books")
        key = auditor.made_by.get(moved.syssn)
        entry = auditor.entries.get(key or "")
        wrong = entry is not None and entry.state is State.NOT_EXECUTED
        if wrong and moved.syssn not in listed and ours is None and not _may_be_a_doubts(site, moved):
            auditor.fail("I5", f"{key} was decided wrongly, and nothing tells of {moved.syssn}")


def _may_be_a_doubts(site: Site, moved: Moved) -> bool:
    return any(
        (entry.unresolved or (entry.state is State.EXECUTED and entry.result_syssn is None))
        and (entry.syssn, entry.amount) == (moved.orig_syssn, moved.amount)
        for entry in site.auditor.entries.values()
    )
