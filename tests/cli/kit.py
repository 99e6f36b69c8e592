"""Runs the command line as a user does: another process; or in this one, where only what it says and does counts."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from attrs import define, field, frozen

from qfpay_preauth.testing import Config, Gateway

T = TypeVar("T")

COMMAND = (sys.executable, "-W", "always::ResourceWarning", "-m", "qfpay_preauth")

SECRET = "CLIENTKEYTHATNOBODYMAYSEE0123456"
"""The client key of the tests' shop: no screen may ever show it."""


def environment(**more: str) -> dict[str, str]:
    """What the process sees: where the package is, and nothing of the developer's own settings."""
    return {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ.get("PATH", ""), "PYTHONUTF8": "1", **more}


def run(
    *arguments: str, env: Mapping[str, str] | None = None, command: tuple[str, ...] = COMMAND, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end, without a terminal."""
    return subprocess.run(
        [*command, *arguments],
        env=environment(**(env or {})),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that an error is; no traceback, and nothing on the other stream."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


# ------------------------------------------------------------------------------------------------ in this process


@frozen
class Said:
    """What one command came to."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Its stdout as JSON, an object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """The error's object, the last line of stderr."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])
        return found


def here(*arguments: str, env: Mapping[str, str] | None = None) -> Said:
    """Run a command in this process, with no settings but these."""
    from qfpay_preauth import _cli

    kept = {name: value for name, value in os.environ.items() if not name.startswith("QFPAY_")}
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, {**kept, **(env or {})}, clear=True), redirect_stdout(out), redirect_stderr(err):
        code = _cli.run(arguments)
    return Said(code, out.getvalue(), err.getvalue())


@define
class Shop:
    """A merchant with an account at a simulated gateway, a ledger file, and a shell."""

    folder: Path
    env: dict[str, str]
    gateway: Gateway
    loop: asyncio.AbstractEventLoop
    heard: list[str] = field(factory=list)

    def do(self, work: Callable[[Gateway], T]) -> T:
        """Act on the gateway, on its own thread."""

        async def on_its_thread() -> T:
            return work(self.gateway)

        return asyncio.run_coroutine_threadsafe(on_its_thread(), self.loop).result(20)

    def wait(self, work: Callable[[Gateway], Any]) -> None:
        """Await something of the gateway's, on its own thread."""

        async def on_its_thread() -> None:
            await work(self.gateway)

        asyncio.run_coroutine_threadsafe(on_its_thread(), self.loop).result(20)

    def hold(self, amount: int = 50_000, *, registered: bool = True, number: str = "ORDER-17") -> str:
        """A hold of HKD, registered through the command line; its syssn."""
        syssn = self.do(lambda gateway: gateway.hold(amount, "HKD", out_trade_no=number))
        if registered:
            done = self("register", syssn, str(amount), "HKD", "--out-trade-no", number)
            assert done.code == 0, done.err
        return syssn

    def capture(self, syssn: str, amount: int = 20_000, key: str = "key") -> str:
        """An executed capture; its syssn."""
        done = self("capture", syssn, str(amount), "-k", key, "--json")
        assert done.code == 0, done.err
        return str(done.objects[0]["syssn"])

    def fault(self, kind: str, operation: str | None = "capture", **how: Any) -> None:
        """Let the next such request go wrong."""
        self.do(lambda gateway: gateway.faults.add(kind, operation=operation, **how))

    def sent(self, operation: str | None = None) -> int:
        """Requests that reached the gateway."""
        made = self.do(lambda gateway: list(gateway.requests))
        return sum(each.operation == operation or operation is None for each in made)

    def lost(self, syssn: str, amount: int = 5_000, key: str = "lost") -> None:
        """A capture that was executed and whose answer was lost: in doubt."""
        self.fault("drop_after")
        assert self("capture", syssn, str(amount), "-k", key).code == 4

    def __call__(self, *arguments: str) -> Said:
        """Run a command in this process; whatever it says is searched for the secret."""
        with chdir(self.folder):
            said = here(*arguments, env=self.env)
        self.heard.append(f"{said.out}{said.err}")
        assert SECRET not in said.out + said.err
        return said

    def child(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a command as another process, without a terminal."""
        return run(*arguments, env={**self.env, **more}, cwd=self.folder)


@contextmanager
def open_shop(folder: Path, config: Config | None = None) -> Iterator[Shop]:
    """A shop whose gateway runs on a thread of its own, as the commands run their own event loops."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    config = config or Config()
    config.client_key = SECRET
    gateway = Gateway(config)
    try:
        asyncio.run_coroutine_threadsafe(gateway.__aenter__(), loop).result(20)
        env = {
            "QFPAY_APP_CODE": config.app_code,
            "QFPAY_CLIENT_KEY": SECRET,
            "QFPAY_BASE_URL": gateway.url,
            "QFPAY_LEDGER": "sqlite:///ledger.db",
            "QFPAY_PATIENCE_S": "0",
            "QFPAY_BACKOFF_INITIAL_S": "0.001",
            "QFPAY_REQUESTS_PER_SECOND": "100000",
            "QFPAY_REQUESTS_PER_MINUTE": "1000000",
        }
        if config.mchid:
            env["QFPAY_MCHID"] = config.mchid
        yield Shop(folder, env, gateway, loop)
        asyncio.run_coroutine_threadsafe(gateway.__aexit__(None, None, None), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
