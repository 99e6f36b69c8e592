"""The conformance kit over `memory://`."""

from __future__ import annotations

from pathlib import Path

from qfpay_preauth.ledger import Ledger, ledger_from
from qfpay_preauth.testing.ledger_contract import LedgerContract


class TestMemoryLedger(LedgerContract):
    """Every promise of the interface."""

    async def make_ledger(self, tmp_path: Path) -> Ledger:
        """A ledger that nothing else knows."""
        return ledger_from("memory://")
