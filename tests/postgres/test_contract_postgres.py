"""The conformance kit over `postgresql://…`."""

from __future__ import annotations

from pathlib import Path

import pytest

from qfpay_preauth.ledger import Ledger
from qfpay_preauth.ledger.postgres import PostgresLedger
from qfpay_preauth.testing.ledger_contract import LedgerContract

from .kit import drop_schema, new_schema, url_of
from .server import Server


class TestPostgresLedger(LedgerContract):
    """Every promise of the interface."""

    model_steps = 150  # each is a transaction of its own

    @pytest.fixture(autouse=True)
    def _on(self, postgres: Server) -> None:
        self.postgres = postgres

    async def make_ledger(self, tmp_path: Path) -> Ledger:
        """A ledger in a schema of its own."""
        return PostgresLedger(url_of(self.postgres, new_schema()), migrate=True)

    async def drop_ledger(self, ledger: Ledger) -> None:
        """Close it, and take the schema away."""
        assert isinstance(ledger, PostgresLedger)
        await ledger.close()
        await drop_schema(self.postgres, ledger.schema)
