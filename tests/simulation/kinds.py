"""The kinds of trouble that a seed may switch on; every one has to strike somewhere in a long run."""

from __future__ import annotations

WIRE_KINDS = (
    "drop_before",
    "drop_after",
    "reset_before",
    "reset_after",
    "hang_before",
    "hang_after",
    "rate_limited",
    "status_before",
    "status_after",
    "unlisted_before",
    "unlisted_after",
    "refused_now",
    "set_up",
    "declined",
    "pending",
    "pending_refused",
    "cut",
    "garbled",
    "huge",
    "slow",
    "redirect",
    "swapped",
    "altered",
    "foreign_refusal",
    "missigned",
    "late",
    "late_hang",
    "delay",
    "hidden",
    "shifted",
    "not_connected",
    "cut_before_body",
)
NOTICE_KINDS = (
    "notice_lost",
    "notice_unheard",
    "notice_repeated",
    "notice_reordered",
    "notice_wrong_key",
    "notice_altered",
    "notice_reserialised",
    "notice_unsigned",
    "notice_oversize",
)
TROUBLES = (
    "ledger_before",
    "ledger_after",
    "cancel",
    "timeout",
    "kill",
    "kill_at_step",
    "pause",
    "close",
    "clock_jump",
    "rotation",
    "portal_capture",
    "portal_unfreeze",
    "portal_refund",
    "decide_right",
    "decide_wrong",
    "import",
    "conflict",
    "old_notice",
    "portal_before",
    "crowd",
)
OPEN_QUESTIONS = ("words_equal", "words_missing", "unlinked_rows", "query_lag", "month_edge", "quiet_period", "lapse")
SET_UPS = ("accounts", "mchid", "md5", "shared_budget", "strict_expiry", "small_pages")
"""How the merchant is set up: several accounts in one ledger, one app with merchant ids, the older signature …"""
ALL_KINDS = (*WIRE_KINDS, *NOTICE_KINDS, *TROUBLES, *OPEN_QUESTIONS, *SET_UPS)

LOSSES = (
    "drop_after",
    "hang_after",
    "status_after",
    "unlisted_after",
    "cut",
    "garbled",
    "late",
    "late_hang",
    "pending",
)
"""Kinds that lose the answer of what was, or will be, executed: the bad day that all this is about."""
