"""A SQLite ledger that somebody else keeps from being written, for as long as it lasts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
    """Nothing can be inserted into any table of the books meanwhile (by trigger, so that it fails at once)."""
    with _connected(path) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        names = [each for each in tables if not each.startswith("sqlite_") and each != "windows"]
        for name in names:
            connection.execute(
                f"CREATE TRIGGER broken_{name} BEFORE INSERT ON {name} BEGIN SELECT RAISE(ABORT, 'disk full'); END"
            )
    try:
        yield
    finally:
        with _connected(path) as connection:
            for name in names:
                connection.execute(f"DROP TRIGGER broken_{name}")


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()
