"""Every wrong client is caught by the auditor, on a seed on which the right one is not."""

from __future__ import annotations

import pytest

from tests.simulation.batch import catch
from tests.simulation.mutants import names

SEEDS = 800
# where the first seeds do not catch one, the seed that did when last looked at: it is tried first, and if it no longer
# does, all are
CAUGHT_ON = {
    "a_doubt_lapses_with_time": 21,
    "a_failed_row_counts": 49,
    "a_notice_is_matched_by_its_amount": 16,
    "a_notice_of_any_kind_counts": 16,
    "a_refund_without_a_claim": 42,
    "a_replay_sends_again": 43,
    "a_row_of_any_hold_counts": 16,
    "a_row_of_any_time_counts": 201,
    "a_server_error_is_a_no": 25,
    "a_spent_permit_is_given_back": 21,
    "a_syssn_is_claimed_twice": 48,
    "accept_a_mismatching_yes": 52,
    "an_ended_entry_takes_the_row": 30,
    "capture_beside_an_unfreeze": 35,
    "first_page_only": 35,
    "held_entries_expire": 118,
    "late_evidence_edits_an_ended_entry": 16,
    "pending_is_a_yes": 25,
    "release_on_an_empty_enquiry": 75,
    "release_on_cancel": 33,
    "retry_on_a_server_error": 25,
    "the_budget_is_ignored": 21,
    "the_quiet_period_is_skipped": 71,
}


@pytest.mark.parametrize("name", names())
def test_every_mutant_is_caught(name: str) -> None:
    """The auditor sees what this wrong client does within a bounded number of seeds."""
    assert (catch(name, 1, CAUGHT_ON.get(name, 0)) or catch(name, SEEDS)) is not None


def test_there_are_enough_mutants() -> None:
    """A machine that has little to catch shows little."""
    assert len(names()) >= 25
