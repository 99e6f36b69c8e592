"""Where the workers come from: one process that has everything imported and forks a child for each that is asked for.

A fresh interpreter for every process that is to be killed would cost more than the kills. A child that died stays a
zombie until it is asked for, so that its process id belongs to nobody else when it is killed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import Self

from attrs import frozen

ROOT = Path(__file__).parents[1]
WORKERS = ("tests.kills.worker", "tests.client.child", "tests.evidence.child", "tests.postgres.worker")
"""What a child can be: each has a `live(*words)`, which does all that it is there for."""
_MESSAGE_MAX = 65_536


@frozen
class Child:
    """One process, and what it says (standard output and standard error); the end of it is its death.

    What `writer` is given, it reads as its standard input.
    """

    pid: int
    said: asyncio.StreamReader
    writer: asyncio.StreamWriter
    nursery: Nursery

    def signal(self, which: signal.Signals) -> None:
        """SIGKILL: nothing of it runs any more; SIGSTOP, SIGCONT: it is paused, and goes on."""
        os.kill(self.pid, which)

    def kill(self) -> None:
        """See `signal`."""
        self.signal(signal.SIGKILL)

    async def ended(self) -> tuple[bytes, int]:
        """What else it said until it was dead, and how it ended: its exit code, or minus the signal; asked once."""
        said = await self.said.read()
        self.writer.close()
        return said, self.nursery.buried(self.pid)


Spawn = Callable[..., Awaitable[Child]]
"""A worker's module and its words → the child; see the fixture `spawn`."""


class Nursery:
    """The parent's side."""

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery", str(theirs.fileno())],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=[theirs.fileno()],
            )
        self.living: set[int] = set()
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()  # which ends it
        self._process.wait(20)

    async def start(self, worker: str, *words: str) -> Child:
        """A child that lives as `worker` does, with this command line."""
        near, far = socket.socketpair()
        with far:
            socket.send_fds(self._control, [json.dumps([worker, words]).encode()], [far.fileno()])
            pid = int(self._control.recv(_MESSAGE_MAX))
        self.living.add(pid)
        return Child(pid, *await asyncio.open_connection(sock=near), self)

    def buried(self, pid: int) -> int:
        """How a child ended that has ended, or is about to."""
        self.living.remove(pid)
        self._control.send(json.dumps(pid).encode())
        return int(self._control.recv(_MESSAGE_MAX))


@asynccontextmanager
async def spawning(nursery: Nursery) -> AsyncIterator[Spawn]:
    """Starts workers; those that still run at the end are killed."""
    children: list[Child] = []

    async def start(worker: str, *words: str) -> Child:
        children.append(await nursery.start(worker, *words))
        return children[-1]

    try:
        yield start
    finally:
        for child in children:
            if child.pid in nursery.living:
                child.kill()
                await child.ended()


def serve(control: socket.socket) -> None:
    """The other side: fork, or say how a child ended, until the parent is gone."""
    while True:
        message, handles, _, _ = socket.recv_fds(control, _MESSAGE_MAX, 1)
        if not message:
            return
        wanted = json.loads(message)
        if isinstance(wanted, int):
            answer = os.waitstatus_to_exitcode(os.waitpid(wanted, 0)[1])
        else:
            answer = os.fork()
            if not answer:
                control.close()
                _live(handles[0], *wanted)
            os.close(handles[0])
        control.send(str(answer).encode())


def _live(output: int, worker: str, words: list[str]) -> None:
    for standard in (0, 1, 2):
        os.dup2(output, standard)
    logging.getLogger("qfpay_preauth").addHandler(logging.NullHandler())  # what is said besides is a defect
    code = 1
    try:
        import_module(worker).live(*words)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    import qfpay_preauth._transport  # noqa: F401 - all that a child needs, before the first fork

    for name in WORKERS:
        import_module(name)
    with socket.socket(fileno=int(sys.argv[1])) as line:
        serve(line)
