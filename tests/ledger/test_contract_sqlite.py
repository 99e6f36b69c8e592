"""The conformance kit over `sqlite:///path`."""

from __future__ import annotations

from pathlib import Path

from qfpay_preauth.ledger import Ledger, ledger_from
from qfpay_preauth.testing.ledger_contract import LedgerContract
from tests.support import sqlite_url


class TestSqliteLedger(LedgerContract):
    """Every promise of the interface."""

    async def make_ledger(self, tmp_path: Path) -> Ledger:
        """A new file for each test."""
        return ledger_from(sqlite_url(tmp_path))
