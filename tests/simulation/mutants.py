"""Wrong clients, switched on by name: each breaks one promise in the way that somebody might really write it.

A mutant is a patch of the real rooms; everything around it stays. The auditor has to catch every one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

Patch = Callable[[object, str, Any], None]
MUTANTS: dict[str, Callable[[Patch], None]] = {}

FOCUS: dict[str, tuple[str, ...]] = {
    "a_doubt_lapses_with_time": ("late_hang",),
    "a_lost_body_is_not_sent": ("reset_after",),
    "a_notice_is_matched_by_its_amount": ("drop_after", "portal_unfreeze"),
    "a_notice_of_any_kind_counts": ("drop_after", "portal_unfreeze"),
    "a_pending_row_is_a_no": ("pending",),
    "a_redirect_is_a_yes": ("redirect",),
    "a_replay_sends_again": ("drop_after",),
    "a_drawn_permit_does_not_count": ("shared_budget",),
    "a_row_of_any_hold_counts": ("drop_after",),
    "a_row_of_any_time_counts": ("portal_before", "drop_before", "hang_before", "reset_before"),
    "a_syssn_is_claimed_twice": ("pending",),
    "accept_a_mismatching_yes": ("altered", "swapped"),
    "accounts_share_their_ids": ("accounts",),
    "accounts_share_their_keys": ("accounts",),
    "an_unlisted_code_is_a_no": ("unlisted_after",),
    "anybody_ends_a_fresh_entry": ("pause", "late"),
    "believe_a_mismatching_refusal": ("foreign_refusal",),
    "every_process_has_its_own_budget": ("shared_budget",),
    "first_page_only": ("shifted", "drop_after"),
    "follow_redirects": ("redirect",),
    "held_entries_expire": ("pause", "hang_after", "kill_at_step"),
    "late_evidence_edits_an_ended_entry": ("pause", "decide_wrong", "quiet_period"),
    "not_found_is_a_no": ("status_after",),
    "pending_is_a_no": ("pending",),
    "release_on_an_empty_enquiry": ("late_hang",),
    "release_on_cancel": ("cancel", "hang_after"),
    "send_after_send_by": ("pause",),
    "strict_expiry_is_ignored": ("strict_expiry",),
    "the_merchant_id_is_left_out": ("mchid",),
    "the_quiet_period_is_skipped": ("quiet_period", "late_hang", "late"),
    "the_signature_is_always_sha256": ("md5",),
    "this_month_only": ("month_edge",),
    "two_equal_readings_are_wanted": ("crowd", "drop_after", "hang_after"),
}
"""Kinds of trouble that are always on for a mutant, to find it in fewer seeds; any seed could find it without."""


def mutant(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Register a wrong client under its function's name."""
    MUTANTS[plant.__name__] = plant
    return plant


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Run with a wrong client (None: with the right one)."""
    from tests.simulation import (  # noqa: F401 - they register
        mutants_evidence,
        mutants_ledger,
        mutants_shared,
        mutants_wire,
    )

    with ExitStack() as stack:

        def patch(where: object, what: str, new: Any) -> None:
            stack.enter_context(mock.patch.object(where, what, new))

        if name is not None:
            MUTANTS[name](patch)
        yield


def focus_of(name: str | None) -> frozenset[str]:
    """The kinds that are always on for a mutant."""
    return frozenset(FOCUS.get(name or "", ()))


def names() -> list[str]:
    """Every mutant's name."""
    with planted(None):
        return sorted(MUTANTS)
