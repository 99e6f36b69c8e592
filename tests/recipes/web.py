"""The web recipes' stage: a recipe on a real port, in this process or in one of its own, and callers of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web
from attrs import frozen
from structlog.testing import capture_logs

from qfpay_preauth import PreauthClient
from qfpay_preauth.testing import Gateway
from tests.recipes import aiohttp_app, fastapi_app
from tests.support import client_of, sqlite_url

ROOT = Path(__file__).parent.parent.parent
RECIPES = ("fastapi", "aiohttp")


def environ(gateway: Gateway, folder: Path, **more: str) -> dict[str, str]:
    """What sets a recipe up: the gateway, a SQLite ledger, captures whose rows can be linked, short times."""
    return {
        "QFPAY_APP_CODE": gateway.app_code,
        "QFPAY_CLIENT_KEY": gateway.client_key,
        "QFPAY_BASE_URL": gateway.url,
        "QFPAY_LEDGER": sqlite_url(folder),
        "QFPAY_CAPTURE_REFERENCE": "true",
        "QFPAY_REQUESTS_PER_SECOND": "100000",
        "QFPAY_REQUESTS_PER_MINUTE": "1000000",
        "QFPAY_BACKOFF_MAX_S": "0.01",
        "QFPAY_BACKOFF_INITIAL_S": "0.001",
        "QFPAY_PATIENCE_S": "0",
        **more,
    }


@frozen
class Reply:
    """What a caller got."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str]


@frozen
class Shop:
    """A served recipe, its gateway, and one caller's session."""

    url: str
    gateway: Gateway
    session: aiohttp.ClientSession

    async def post(self, path: str, body: object, key: str | None = None) -> Reply:
        """One JSON request."""
        headers = {} if key is None else {"Idempotency-Key": key}
        async with self.session.post(f"{self.url}{path}", json=body, headers=headers) as response:
            return Reply(response.status, await response.json(), response.headers)

    async def hold(self, amount: int = 50_000) -> str:
        """A hold, registered through the recipe."""
        syssn = self.gateway.hold(amount, "HKD")
        number = self.gateway.books.holds[syssn].out_trade_no
        body = {"syssn": syssn, "amount": amount, "currency": "HKD", "out_trade_no": number}
        assert (await self.post("/authorizations", body)).status == 201
        return syssn

    async def capture(self, syssn: str, amount: int, key: str | None = "order-1/parcel-1") -> Reply:
        """Ask for a capture."""
        return await self.post(f"/authorizations/{syssn}/captures", {"amount": amount}, key)

    async def captured(self, syssn: str, amount: int, key: str, within_s: float = 20.0) -> Reply:
        """Ask with the same key until the capture is known to have happened, as a caller should."""
        async with asyncio.timeout(within_s):
            while (reply := await self.capture(syssn, amount, key)).status != 200:
                assert reply.status in (202, 409, 503), reply
                assert int(reply.headers["Retry-After"]) > 0
                await asyncio.sleep(0.02)
        return reply

    async def ready(self) -> tuple[int, dict[str, Any]]:
        """The readiness answer."""
        async with self.session.get(f"{self.url}/ready") as response:
            return response.status, await response.json()


@asynccontextmanager
async def served(recipe: str, gateway: Gateway, *, handler_cancellation: bool = False) -> AsyncIterator[Shop]:
    """The recipe in this process, on a real port; the environment sets it up."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with capture_logs():  # the recipe's own lines; what they say is tested elsewhere
        async with aiohttp.ClientSession() as session, _server(recipe, listening, handler_cancellation):
            yield Shop(url, gateway, session)


@asynccontextmanager
async def _server(recipe: str, listening: socket.socket, handler_cancellation: bool) -> AsyncIterator[None]:
    if recipe == "fastapi":
        server = uvicorn.Server(uvicorn.Config(fastapi_app.create_app(), log_level="warning", ws="none"))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        yield
        server.should_exit = True
        await task
    else:
        runner = web.AppRunner(aiohttp_app.create_app(), handler_cancellation=handler_cancellation)
        await runner.setup()
        await web.SockSite(runner, listening).start()
        yield
        await runner.cleanup()


# ------------------------------------------------------------------------------------------------ a process of its own


def free_port() -> int:
    """A port that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def command(recipe: str, port: int) -> list[str]:
    """The command that the recipe's docstring names, for a copy of it in `shop`."""
    if recipe == "fastapi":
        where = ["--host", "127.0.0.1", "--port", str(port), "--timeout-graceful-shutdown", "5"]
        return [sys.executable, "-m", "uvicorn", "--factory", "shop.fastapi_app:create_app", *where]
    return [sys.executable, "-m", "aiohttp.web", "-H", "127.0.0.1", "-P", str(port), "shop.aiohttp_app:create_app"]


async def run_copied(
    folder: Path, given: Mapping[str, str], command: Sequence[str], log: Path
) -> asyncio.subprocess.Process:
    """Start a command in a folder where the recipes were copied into a package `shop`, as a user copies them."""
    (folder / "shop").mkdir(exist_ok=True)
    for name in ("fastapi_app", "aiohttp_app", "http_answers", "nats_worker", "celery_app", "again"):
        shutil.copy(Path(__file__).parent / f"{name}.py", folder / "shop")
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **given},
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that those it forks can be killed with it
        )


@asynccontextmanager
async def process(
    recipe: str, gateway: Gateway, given: Mapping[str, str], port: int, log: Path
) -> AsyncIterator[tuple[Shop, asyncio.subprocess.Process]]:
    """The recipe as its docstring says to run it; killed at the end if it still runs."""
    child = await run_copied(log.parent, given, command(recipe, port), log)
    try:
        async with aiohttp.ClientSession() as session:
            shop = Shop(f"http://127.0.0.1:{port}", gateway, session)
            await _is_up(shop, child, log)
            yield shop, child
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()


async def _is_up(shop: Shop, child: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(30):
        while True:
            assert child.returncode is None, f"the recipe did not start: see {log}"
            try:
                if (await shop.ready())[0] == 200:
                    return
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)


async def ask_to_stop(child: asyncio.subprocess.Process) -> int:
    """SIGTERM, and what the process ends with: 0, or the signal that uvicorn raises again once all is done."""
    child.send_signal(signal.SIGTERM)
    return await asyncio.wait_for(child.wait(), 20)


# ------------------------------------------------------------------------------------------------ callers that leave


async def hang_up(shop: Shop, syssn: str, amount: int, key: str, *, after_s: float, reset: bool, cut: int) -> None:
    """Send a capture by hand (its last `cut` bytes held back), and leave after `after_s` without reading anything."""
    host, port = shop.url.removeprefix("http://").split(":")
    body = b'{"amount": %d}' % amount
    head = (
        f"POST /authorizations/{syssn}/captures HTTP/1.1\r\nHost: {host}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    _, writer = await asyncio.open_connection(host, int(port))
    message = head.encode() + body
    writer.write(message[: len(message) - cut])
    await asyncio.sleep(after_s)  # the caller's patience: random, and no synchronisation
    if reset:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def check_books(gateway: Gateway, folder: Path, wanted: Mapping[str, int]) -> None:
    """Hold → what was to be captured on it: so say our books, and the gateway's; nothing is held or in doubt."""
    async with client_of(gateway, sqlite_url(folder)) as client:
        assert {syssn: await _books(client, syssn) for syssn in wanted} == {
            syssn: (amount, 0, 0) for syssn, amount in wanted.items()
        }
    assert {syssn: gateway.books.totals(syssn).captured for syssn in wanted} == dict(wanted)
    assert gateway.books.audit() == []


async def _books(client: PreauthClient, syssn: str) -> tuple[int, int, int]:
    books = await client.balance(syssn)
    return books.captured, books.held, books.in_doubt
