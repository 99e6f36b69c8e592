"""A command on a terminal of its own (a pseudo-terminal), as a person at the keyboard has it."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .kit import COMMAND, Shop, environment

WITHIN_S = 30.0


class Terminal:
    """A running command: what it has shown so far, what is typed, Ctrl-C."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.screen = ""

    def until(self, text: str) -> str:
        """All that was shown, once `text` is on the screen."""
        deadline = time.monotonic() + WITHIN_S
        while text not in self.screen:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} never came: {self.screen}"
            ready, _, _ = select.select([self._master], [], [], left)
            assert not ready or self._read(), f"it ended without {text!r}: {self.screen}"
        return self.screen

    def _read(self) -> bool:
        try:
            found = os.read(self._master, 65_536)
        except OSError:  # the other side is closed
            return False
        self.screen += found.decode("utf-8", "replace").replace("\r\n", "\n")
        return bool(found)

    def type(self, text: str) -> None:
        """Type, with the return key."""
        os.write(self._master, f"{text}\n".encode())

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self) -> int:
        """The exit code; all that was shown is in `screen`."""
        code = self.process.wait(WITHIN_S)
        while select.select([self._master], [], [], 0)[0] and self._read():
            pass
        return code


@contextmanager
def terminal(shop: Shop, *arguments: str, **more: str) -> Iterator[Terminal]:
    """Start a command of the shop on a terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(**{**shop.env, "TERM": "xterm", "COLUMNS": "160", "LINES": "40", **more}),
        cwd=shop.folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


@contextmanager
def started(shop: Shop, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command of the shop without a terminal."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=environment(**{**shop.env, **more}),
        cwd=shop.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool]) -> None:
    """Poll what another process brings about."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
