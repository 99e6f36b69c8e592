"""Opening rules: a ledger is the memory of every hold, so nothing is silently recreated, replaced or changed."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from qfpay_preauth._windows import Claim
from qfpay_preauth.errors import ConfigurationError, LedgerError, LedgerUnavailableError
from qfpay_preauth.ledger import ledger_from
from qfpay_preauth.ledger._sqlite_file import VERSION
from qfpay_preauth.ledger.sqlite import SqliteLedger
from qfpay_preauth.testing._ledger_kit import Scene

from .kit import child, contents, dump, opened, sql, together


async def _written(folder: Path) -> Path:
    ledger, s = await opened(folder)
    await s.hold()
    await s.captured("k1", 300)
    await ledger.close()
    return ledger.path


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# ------------------------------------------------------------------------------------------------ missing files


async def test_missing_file_is_created_0600(tmp_path: Path) -> None:
    """A new ledger, its -wal and its -shm are for their owner only, whatever the umask, and nothing else is left."""
    before = os.umask(0)
    try:
        ledger, s = await opened(tmp_path)
        await s.hold()
    finally:
        os.umask(before)
    assert list(contents(tmp_path)) == ["ledger.db", "ledger.db-shm", "ledger.db-wal"]
    assert {_mode(tmp_path / name) for name in contents(tmp_path)} == {0o600}
    await ledger.close()
    assert list(contents(tmp_path)) == ["ledger.db"]


async def test_the_log_is_written_over(tmp_path: Path) -> None:
    """However many steps are committed one by one, the write-ahead log stays at a thousand pages, and a few."""
    ledger, s = await opened(tmp_path)
    await s.hold(1_000_000)
    log = tmp_path / "ledger.db-wal"
    sizes = set()
    for number in range(200):
        await s.captured(f"k{number}", 1)
        sizes.add(log.stat().st_size)
    assert len(sizes) < 200  # it does not grow all the time
    assert 1_000 * 4_096 < max(sizes) < 1_100 * 4_120
    await ledger.close()


async def test_new_file_is_durable_and_marked(tmp_path: Path) -> None:
    """A ledger uses WAL and FULL synchronisation, and carries our application id and version."""
    ledger, _ = await opened(tmp_path)
    assert ledger._writer is not None
    run = ledger._writer._connection.execute
    pragmas = [run(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "user_version")]
    assert pragmas == ["wal", 2, VERSION]
    await ledger.close()


async def test_production_needs_rwc(tmp_path: Path) -> None:
    """In production a missing file is a ConfigurationError that names ?mode=rwc; with it, the file is made."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    with pytest.raises(ConfigurationError, match=r"\?mode=rwc"):
        await ledger_from(url).open("production")
    assert contents(tmp_path) == {}
    ledger = ledger_from(f"{url}?mode=rwc")
    await ledger.open("production")
    await ledger.close()
    again = ledger_from(url)
    await again.open("production")
    await again.close()
    assert list(contents(tmp_path)) == ["ledger.db"]


@pytest.mark.parametrize("environment", ["sandbox", "live_test", "production"])
async def test_mode_rw_never_creates(tmp_path: Path, environment: str) -> None:
    """With ?mode=rw a missing file is refused everywhere."""
    with pytest.raises(ConfigurationError):
        await ledger_from(f"sqlite:///{tmp_path / 'ledger.db'}?mode=rw").open(environment)
    assert contents(tmp_path) == {}


async def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """Folders are not made, and a file in the place of a folder is not one."""
    (tmp_path / "file").write_text("x")
    for parent in ("missing", "file"):
        with pytest.raises(ConfigurationError, match="folder"):
            await SqliteLedger(tmp_path / parent / "ledger.db").open("sandbox")
    assert contents(tmp_path) == {"file": b"x"}
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("name", ["n" * 300, "nul\0byte", "n" * 250])
async def test_impossible_name_is_a_clear_error(tmp_path: Path, name: str) -> None:
    """A name that no file can have is one of our errors, not the operating system's, and leaves nothing."""
    with pytest.raises((ConfigurationError, LedgerUnavailableError)):
        await SqliteLedger(f"{tmp_path}/{name}").open("sandbox")
    assert contents(tmp_path) == {}


async def test_dangling_link_is_refused(tmp_path: Path) -> None:
    """A link to nowhere is not replaced by a file."""
    link = tmp_path / "ledger.db"
    link.symlink_to(tmp_path / "gone.db")
    with pytest.raises((ConfigurationError, LedgerUnavailableError)):
        await SqliteLedger(link).open("sandbox")
    assert os.listdir(tmp_path) == ["ledger.db"]
    assert link.is_symlink()


# ------------------------------------------------------------------------------------------------ files that refuse


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("date,amount\n" * 1_000)


def _another_program(path: Path) -> None:
    path.unlink()
    with sql(path) as connection:
        connection.execute("CREATE TABLE meta (name TEXT, value TEXT)")
        connection.execute("INSERT INTO meta VALUES ('environment', 'sandbox')")


def _newer(path: Path) -> None:
    with sql(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")


def _unmarked(path: Path) -> None:
    with sql(path) as connection:
        connection.execute("PRAGMA application_id = 0")


def _without_environment(path: Path) -> None:
    with sql(path) as connection:
        connection.execute("DELETE FROM meta")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4096])


def _header_overwritten(path: Path) -> None:
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def _garbage_behind_the_header(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + b"\xa5" * (len(whole) - 100))


SPOILERS = [
    _empty, _text, _another_program, _newer, _unmarked, _without_environment, _cut,
    _header_overwritten, _garbage_behind_the_header,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILERS, ids=lambda spoil: spoil.__name__.strip("_"))
@pytest.mark.parametrize("create", [None, True, False])
async def test_file_that_is_no_ledger_is_left_alone(
    tmp_path: Path, spoil: Callable[[Path], None], create: bool | None
) -> None:
    """Empty, corrupt, somebody else's or newer: LedgerUnavailableError, whatever the mode; not a byte is changed."""
    path = await _written(tmp_path)
    spoil(path)
    before = contents(tmp_path)
    ledger = SqliteLedger(path, create=create)
    with pytest.raises(LedgerUnavailableError, match=r"ledger\.db"):
        await ledger.open("sandbox")
    # beside a file in WAL mode SQLite may leave an empty -wal and a -shm; what was there is as it was
    assert {name: contents(tmp_path)[name] for name in before} == before
    assert not contents(tmp_path).get("ledger.db-wal")
    with pytest.raises(LedgerUnavailableError):
        await ledger.entry("M-1", "k1")
    await ledger.close()


async def test_another_programs_wal_is_not_lost(tmp_path: Path) -> None:
    """Somebody else's database whose last commits are still in its -wal keeps them when it is refused."""
    other, path = tmp_path / "other.db", tmp_path / "ledger.db"
    with sql(other) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE t (x)")
        connection.execute("INSERT INTO t VALUES (7)")
        shutil.copy(other, path)
        shutil.copy(f"{other}-wal", f"{path}-wal")
    with pytest.raises(LedgerUnavailableError):
        await SqliteLedger(path).open("sandbox")
    assert dump(path) == dump(other)


async def test_other_environments_ledger_is_left_alone(tmp_path: Path) -> None:
    """A sandbox ledger does not open in production: ConfigurationError, and not a byte is changed."""
    path = await _written(tmp_path)
    before = contents(tmp_path)
    for create in (None, True, False):
        with pytest.raises(ConfigurationError, match="belongs to sandbox"):
            await SqliteLedger(path, create=create).open("production")
    assert contents(tmp_path) == before


async def test_directory_is_refused(tmp_path: Path) -> None:
    """A folder is no ledger."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(LedgerUnavailableError):
        await SqliteLedger(tmp_path / "folder").open("sandbox")
    assert list((tmp_path / "folder").iterdir()) == []


async def test_failed_open_can_be_tried_again(tmp_path: Path) -> None:
    """A ledger object that could not be opened opens once the file is back."""
    path = await _written(tmp_path)
    good = path.read_bytes()
    path.write_bytes(b"")
    ledger = SqliteLedger(path)
    with pytest.raises(LedgerUnavailableError):
        await ledger.open("sandbox")
    path.write_bytes(good)
    await ledger.open("sandbox")
    assert (await Scene(ledger).sums()).captured == 300
    await ledger.close()


# ------------------------------------------------------------------------------------------------ starting together


async def test_tasks_and_threads_agree_on_a_missing_file(tmp_path: Path) -> None:
    """Eight ledger objects opened at one moment on a missing file share one file and leave no temporary ones."""
    ledgers = [SqliteLedger(tmp_path / "ledger.db") for _ in range(8)]
    await asyncio.gather(*(ledger.open("sandbox") for ledger in ledgers))
    await asyncio.gather(*(Scene(ledger).hold(syssn=f"HOLD-{n}") for n, ledger in enumerate(ledgers)))
    for n in range(8):
        assert (await Scene(ledgers[-1 - n]).sums(f"HOLD-{n}")).amount == 1_000
    await asyncio.gather(*(ledger.close() for ledger in ledgers))
    assert set(contents(tmp_path)) <= {"ledger.db", "ledger.db-wal", "ledger.db-shm"}


def test_processes_agree_on_a_missing_file(tmp_path: Path) -> None:
    """Processes that start together on a missing file share one file and leave no temporary ones."""
    path = tmp_path / "ledger.db"
    together([child("make", str(path), f"HOLD-{n}") for n in range(3)])
    assert set(contents(tmp_path)) <= {"ledger.db", "ledger.db-wal", "ledger.db-shm"}
    with sql(path) as connection:
        assert connection.execute("SELECT count(*) FROM authorizations").fetchone() == (3,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_a_dead_process_wrote_is_there(tmp_path: Path) -> None:
    """A process that dies without closing leaves its held entry, with its claim, to the next one."""
    path = tmp_path / "ledger.db"
    process: subprocess.Popen[str] = child("die", str(path))
    together([process])

    async def look() -> None:
        ledger, s = await opened(tmp_path)
        assert (await s.balance()).held == 300
        assert (await s.balance(at_s=10_000)).in_doubt == 300
        await ledger.close()

    asyncio.run(look())


# ------------------------------------------------------------------------------------------------ while in use


@pytest.mark.parametrize("how", ["removed", "replaced", "moved"])
async def test_file_lost_while_open_is_noticed(tmp_path: Path, how: str) -> None:
    """A file removed, replaced or moved away under a running ledger makes every verb unavailable, reads too."""
    ledger, s = await opened(tmp_path)
    await s.hold()
    entry = (await s.capture("k1")).entry
    if how == "moved":
        ledger.path.rename(tmp_path / "elsewhere.db")
    else:
        ledger.path.unlink()
    if how == "replaced":
        ledger.path.write_bytes(b"")
    for verb in (lambda: s.capture("k2", 200), lambda: s.executed(entry), s.sums, lambda: s.hold(syssn="HOLD-2")):
        with pytest.raises(LedgerUnavailableError, match="replaced or removed"):
            await verb()
    assert ledger.path.exists() is (how == "replaced")
    await ledger.close()


async def test_reopening_keeps_everything(tmp_path: Path) -> None:
    """Another object on the same file sees every value, and goes on where the first stopped."""
    ledger, s = await opened(tmp_path)
    await s.hold()
    await s.captured("k1", 300, "CAP-1")
    await s.doubted((await s.refund("r1", "CAP-1", 50)).entry)
    await s.not_sent((await s.capture("k2", 200)).entry)
    before = await s.everything()
    await ledger.close()
    s.ledger, _ = await opened(tmp_path)
    assert await s.everything() == before
    assert (await s.capture("k2", 200)).entry.attempt == 2
    await s.ledger.close()


# ------------------------------------------------------------------------------------------------ URLs


async def test_relative_and_absolute_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes start a relative path, four an absolute one."""
    monkeypatch.chdir(tmp_path)
    for url, name in (("sqlite:///relative.db", "relative.db"), (f"sqlite:///{tmp_path}/absolute.db", "absolute.db")):
        ledger = ledger_from(url)
        await ledger.open("sandbox")
        await ledger.close()
        assert (tmp_path / name).is_file()


@pytest.mark.parametrize("name", ["a b.db", "50%.db", "why?.db", "a#b.db", "ledger.db?mode=ro", "账本.db", "a%20b.db"])
async def test_percent_encoding_names_any_file(tmp_path: Path, name: str) -> None:
    """Percent-encoded characters stand for themselves, and mean nothing to SQLite's own URLs."""
    encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    ledger = ledger_from(f"sqlite:///{tmp_path}/{encoded}")
    await ledger.open("sandbox")
    await ledger.close()
    assert list(contents(tmp_path)) == [name]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://", "sqlite:///", "sqlite:///?mode=rwc", "sqlite://ledger.db", "sqlite:ledger.db", "ledger.db", "",
        "sqlite:///ledger.db?mode=ro", "sqlite:///ledger.db?mode=", "sqlite:///ledger.db?mode=memory",
        "sqlite:///ledger.db?cache=shared", "sqlite:///ledger.db?mode=rw&x=1", "sqlite:///ledger.db?Mode=rw",
        "sqlite:///folder/", "memory:", "memory://x", "mysql://host/db", "SQLITE:///ledger.db", None, 7, b"memory://",
    ],
)  # fmt: skip
def test_bad_ledger_is_refused(url: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything but the documented forms is a ConfigurationError that says what is allowed; no file is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"memory://.*sqlite:///path"):
        ledger_from(url)  # type: ignore[arg-type]
    assert contents(tmp_path) == {}


def test_bad_ledger_does_not_print_passwords() -> None:
    """A database URL with a password in it is refused without repeating the password."""
    with pytest.raises(ConfigurationError) as caught:
        ledger_from("mysql://user:hunter2@host/db")
    assert "hunter2" not in str(caught.value)


def test_ledger_object_is_taken_as_it_is(tmp_path: Path) -> None:
    """A Ledger is its own source, and every ledger error is one that callers can catch as such."""
    ledger = SqliteLedger(tmp_path / "ledger.db")
    assert ledger_from(ledger) is ledger
    assert issubclass(LedgerUnavailableError, LedgerError)
    assert not issubclass(sqlite3.Error, LedgerError)


async def test_a_file_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """A ledger made before the rate windows were shared opens with all that is in it, and shares them from then on."""
    path = await _written(tmp_path)
    before = dump(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DROP TABLE windows")
        connection.execute("PRAGMA user_version = 1")
    both = SqliteLedger(path), SqliteLedger(path)
    await asyncio.gather(*(each.open("sandbox") for each in both))
    assert dump(path) == before
    claim = Claim("gateway#M1", 3, 100, 9, lambda: 0.0)
    assert [(await each.draw(claim)).permits for each in both] == [3, 0]
    for each in both:
        await each.close()
