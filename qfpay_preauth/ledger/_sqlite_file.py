"""Opening and making the file. A ledger is the memory of every hold: it is never silently replaced by a new one."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing
from importlib import resources
from pathlib import Path

from qfpay_preauth.errors import ConfigurationError, LedgerUnavailableError, shown

APPLICATION_ID = 0x71667061  # "qfpa": tells our files from other programs' SQLite files
SCRIPTS = ("0001_initial", "0002_rate_windows")
VERSION = len(SCRIPTS)
BUSY_TIMEOUT_S = 10.0
CHECKPOINT_PAGES = 1_000
"""Pages in the write-ahead log before they are moved into the file: a log that is written over takes less to sync than
one that grows, and a longer one spared few of the moves."""


def connect(path: Path, environment: str, *, create: bool) -> sqlite3.Connection:
    """A connection to the ledger at `path`, made new and complete where it is missing and `create` allows.

    Raises:
        ConfigurationError: missing and not to be created, in a folder that is not there, or another environment's.
        LedgerUnavailableError: empty, corrupt, of a newer version, or not a ledger.
    """
    if not _exists(path):
        if not create:
            raise ConfigurationError(
                f"There is no ledger at {path}.",
                advice="Check the path; to make a new one in production, add ?mode=rwc to the URL.",
            )
        _make(path, environment)
    connection: sqlite3.Connection | None = None
    try:
        connection = _connect(path)
        _check(connection, path, environment)
    except (sqlite3.Error, LedgerUnavailableError, ConfigurationError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise LedgerUnavailableError(f"The ledger at {path} cannot be opened: {error}.") from error
        raise
    return connection


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"No ledger can be at {shown(str(path))}: {error}.") from error


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: SQLite must never make a file by itself
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
    )


def _check(connection: sqlite3.Connection, path: Path, environment: str) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = OFF")  # nothing secret is in it; some systems overwrite what is deleted
    connection.execute("PRAGMA temp_store = MEMORY")  # what a statement may have to undo needs no file
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == APPLICATION_ID and 1 <= version < VERSION:
        _bring_up_to_date(connection)
        version = VERSION
    if application != APPLICATION_ID or version != VERSION:
        what = "is not a ledger" if application != APPLICATION_ID else f"has version {version}, not {VERSION}"
        raise LedgerUnavailableError(
            f"The file at {path} {what}; it is left as it is.",
            advice="Restore the ledger from its backup, or point to the right file. It is never recreated.",
        )
    row = connection.execute("SELECT value FROM meta WHERE name = 'environment'").fetchone()
    if row is None:
        raise LedgerUnavailableError(f"The ledger at {path} does not say whose it is; it is left as it is.")
    (found,) = row
    if found != environment:
        raise ConfigurationError(f"The ledger at {path} belongs to {found}, not to {environment}.")


def _bring_up_to_date(connection: sqlite3.Connection) -> None:
    """Apply what a file of an earlier version lacks, whole or not at all; another process may have been first."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for number in range(version, VERSION):
            for statement in script(SCRIPTS[number]).split(";\n"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {max(version, VERSION)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def script(name: str) -> str:
    """One of the numbered SQL files."""
    return resources.files("qfpay_preauth.ledger").joinpath(f"sql/{name}.sql").read_text("utf-8")


def _make(path: Path, environment: str) -> None:
    """Make the file complete under another name, then link it into place: who comes second takes the first's."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"A ledger cannot be made at {shown(str(path), 200)}: {error}.", advice="Make the folder first."
        ) from error
    os.close(handle)
    try:
        _fill(Path(name), environment)
        os.link(name, path)
        _sync_folder(path.parent)
    except FileExistsError:
        pass  # another process was first, and its file is complete
    except (OSError, sqlite3.Error) as error:
        raise LedgerUnavailableError(f"A ledger cannot be made at {path}: {error}.") from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(name + suffix).unlink(missing_ok=True)


def _fill(path: Path, environment: str) -> None:
    whole = "\n".join(script(name) for name in SCRIPTS)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.executescript(f"BEGIN IMMEDIATE;\n{whole}")
        connection.execute("INSERT INTO meta VALUES ('environment', ?)", (environment,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
