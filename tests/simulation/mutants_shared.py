"""Mutants of what accounts and processes share: one ledger, one budget, one gateway that others use as well."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from qfpay_preauth import _evidence, _lifetime, _looks, _windows, _wire
from qfpay_preauth._signing import Signer
from qfpay_preauth.ledger import _rules
from tests.simulation import store
from tests.simulation.mutants import Patch, mutant


@mutant
def every_process_has_its_own_budget(patch: Patch) -> None:
    """Processes on one ledger each send as much as the gateway takes from all of them."""
    patch(_lifetime, "Share", lambda draw, terms: None)


@mutant
def a_drawn_permit_does_not_count(patch: Patch) -> None:
    """What another process has drawn, and not told of yet, takes no room in the shared windows."""
    right = _windows._count

    def count(windows: Any, width_ms: int, now_ms: int) -> int:
        return right(evolve(windows, blocks=()), width_ms, now_ms)

    patch(_windows, "_count", count)


@mutant
def accounts_share_their_keys(patch: Patch) -> None:
    """The ledger looks for a key, and not for whose it is."""
    right = store.WatchedMemory.get_entry

    def get_entry(self: Any, account: str, key: str) -> Any:
        return right(self, account, key) or next((e for (_, k), e in self._entries.items() if k == key), None)

    patch(store.WatchedMemory, "get_entry", get_entry)


@mutant
def accounts_share_their_ids(patch: Patch) -> None:
    """The ledger looks for a syssn, and not for whose it is."""
    right = store.WatchedMemory.get_movement

    def get_movement(self: Any, account: str, syssn: str) -> Any:
        return right(self, account, syssn) or next((m for (_, s), m in self._movements.items() if s == syssn), None)

    patch(store.WatchedMemory, "get_movement", get_movement)


@mutant
def strict_expiry_is_ignored(patch: Patch) -> None:
    """Captures are reserved after the window that the merchant said binds."""
    patch(_rules, "expired", lambda request, authorization: False)


@mutant
def the_merchant_id_is_left_out(patch: Patch) -> None:
    """Requests do not say for which merchant they are."""
    right = _wire.Sender
    patch(_wire, "Sender", lambda app_code, signer, mchid: right(app_code, signer, None))


@mutant
def the_signature_is_always_sha256(patch: Patch) -> None:
    """The account's sign type is not looked at."""
    patch(_lifetime, "Signer", lambda key, *_: Signer(key))


@mutant
def two_equal_readings_are_wanted(patch: Patch) -> None:
    """A list counts as read only when nothing happened between two readings: on a busy account, never."""
    patch(
        _looks,
        "_agree",
        lambda began, first, second: {(r.syssn, r.code) for r in first} == {(r.syssn, r.code) for r in second},
    )


@mutant
def a_row_of_any_time_counts(patch: Patch) -> None:
    """When a row happened is not looked at: one from before the reservation may be ours."""
    right = _evidence._weigh_unlinked

    def weigh(rows: Any, listing: Any, known: Any, found: Any) -> None:
        right([evolve(row, system_time=listing.read_at) for row in rows], listing, known, found)

    patch(_evidence, "_weigh_unlinked", weigh)
