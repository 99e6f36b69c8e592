"""The conformance kit over `sqlite:///path`: new files, and files that were made when entries had no rowid."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from unittest import mock

from qfpay_preauth.ledger import Ledger, _sqlite_file, ledger_from
from qfpay_preauth.testing.ledger_contract import LedgerContract
from tests.support import sqlite_url


class TestSqliteLedger(LedgerContract):
    """Every promise of the interface."""

    async def make_ledger(self, tmp_path: Path) -> Ledger:
        """A new file for each test."""
        return ledger_from(sqlite_url(tmp_path))


def _older(name: str) -> str:
    """A script as it was before entries had a rowid."""
    of_hold = "entries_unresolved ON entries (account, authorization"
    text = _script(name).replace(f"{of_hold}, idempotency_key)", f"{of_hold})")
    entries, end, rest = text.partition(") STRICT;\n\n-- only unresolved")
    return f"{entries}) STRICT, WITHOUT ROWID;\n\n-- only unresolved{rest}" if end else text


_script = _sqlite_file.script


class TestOlderSqliteLedger(LedgerContract):
    """Every promise of the interface, in a file that an earlier version made."""

    async def make_ledger(self, tmp_path: Path) -> Ledger:
        """A new file in the old layout for each test."""
        path = tmp_path / "ledger.db"
        if not path.exists():
            with mock.patch.object(_sqlite_file, "script", _older):
                _sqlite_file._make(path, "sandbox")
        with closing(sqlite3.connect(path)) as connection:
            (made,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entries'").fetchone()
        assert made.endswith("WITHOUT ROWID")
        return ledger_from(sqlite_url(tmp_path))
