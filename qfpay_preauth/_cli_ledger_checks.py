"""The doctor's checks of the ledger: that it opens, is sound, is where it should be, and what is in doubt in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from qfpay_preauth._cli_checks import Check, Level, of_error
from qfpay_preauth._cli_watch import age
from qfpay_preauth._client import PreauthClient
from qfpay_preauth._profile import Profile, open_clients
from qfpay_preauth.errors import PreauthError
from qfpay_preauth.ledger import ledger_from

FREE_BYTES_MIN = 200 * 2**20
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs", "fuse.glusterfs")
_RESTORE = "Keep the file as it is, restore the ledger from its backup, and import what the gateway did since."


async def ledger(profile: Profile) -> list[Check]:
    """Everything about the profile's ledger; it is never made, and only read."""
    if profile.forgets:
        advice = 'Keep it in a file: "sqlite:///ledger.db".'
        return [Check("ledger", Level.FAIL, "memory:// is forgotten when a command ends", advice)]
    path = _path_of(profile)
    if path is not None and not path.exists():
        return [_missing(profile, path)]
    try:
        async with open_clients(profile.with_existing_ledger()) as clients:
            checks = [Check("ledger", Level.OK, f"{profile.ledger_shown} opens, and is {profile.environment}'s")]
            if path is not None:
                checks += await asyncio.to_thread(file_checks, path)
            return [*checks, *[await _doubts(name, client) for name, client in clients.items()]]
    except PreauthError as error:
        return [of_error("ledger", error)]


def _path_of(profile: Profile) -> Path | None:
    if not profile.ledger.startswith("sqlite:///"):
        return None
    from qfpay_preauth.ledger.sqlite import SqliteLedger

    made = ledger_from(profile.ledger)
    return made.path if isinstance(made, SqliteLedger) else None


def _missing(profile: Profile, path: Path) -> Check:
    if profile.environment == "production" and not profile.ledger.endswith("mode=rwc"):
        advice = "Check the path; the first time, add ?mode=rwc to the URL and register a hold."
        return Check("ledger", Level.FAIL, f"there is no file {path}", advice)
    return Check("ledger", Level.WARN, f"there is no file {path} yet", "The first `qfpay-preauth register` makes it.")


async def _doubts(name: str, client: PreauthClient) -> Check:
    found = [doubt async for doubt in client.in_doubt()]
    if not found:
        return Check(f"doubts of {name}", Level.OK, "none")
    needing = sum(doubt.needs_attention for doubt in found)
    says = f"{len(found)} in doubt, {needing} of them need a person; the oldest is {age(found[0].age_s)} old"
    return Check(f"doubts of {name}", Level.WARN, says, "Run `qfpay-preauth reconcile`, then `qfpay-preauth doubts`.")


# ------------------------------------------------------------------------------------------------ the SQLite file


def file_checks(path: Path) -> list[Check]:
    """The file's soundness, its mode, the room it has left, and the kind of disk it is on."""
    return [_integrity(path), *_mode(path), *_room(path), *_disk(path)]


def _integrity(path: Path) -> Check:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            (entries,) = connection.execute("SELECT count(*) FROM entries").fetchone()
    except sqlite3.Error as error:
        return Check("integrity", Level.FAIL, str(error), _RESTORE)
    if found != "ok":
        return Check("integrity", Level.FAIL, str(found), _RESTORE)
    return Check("integrity", Level.OK, f"PRAGMA integrity_check: ok, {entries} entries")


def _mode(path: Path) -> list[Check]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if os.name != "posix" or not mode & 0o077:
        return []
    return [Check("ledger's mode", Level.WARN, f"{mode:04o}: others may read or change it", f"Run chmod 600 {path}")]


def _room(path: Path) -> list[Check]:
    free = shutil.disk_usage(path.parent).free
    says = f"{free // 2**20} MiB free on its disk"
    if free < FREE_BYTES_MIN:
        return [Check("room", Level.WARN, says, "Make room: a ledger that cannot be written stops everything.")]
    return [Check("room", Level.OK, says)]


def _disk(path: Path, mounts: Path = Path("/proc/self/mounts")) -> list[Check]:
    kind = _kind_of_disk(path.resolve(), mounts)
    if kind not in _NETWORK:
        return []
    advice = "Move it to a local disk: locks on network file systems do not hold, and the money rules need them."
    return [Check("disk", Level.FAIL, f"the ledger is on {kind}, a network file system", advice)]


def _kind_of_disk(path: Path, mounts: Path) -> str | None:
    try:
        lines = mounts.read_text("utf-8", "replace").splitlines()
    except OSError:
        return None  # not Linux: nobody tells
    kinds: Mapping[Path, str] = {
        Path(fields[1].replace("\\040", " ")): fields[2] for line in lines if len(fields := line.split(" ")) > 2
    }
    return next((kinds[each] for each in (path, *path.parents) if each in kinds), None)
