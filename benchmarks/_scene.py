"""What the questions share: the stub, the bare POST that everything is compared with, and clients on the stub."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

import aiohttp

from benchmarks._measure import Work, callers
from qfpay_preauth import Credentials, PreauthClient, Settings
from qfpay_preauth.ledger import Ledger

T = TypeVar("T")

APP_CODE, CLIENT_KEY = "BENCHMARKS", "benchmarks-client-key"
PATH = "/trade/v1/authtrade"
AMOUNT, HOLD = 1_000, 99_999_999_999
# what a capture of ours looks like on the wire; the signature is the right one, the stub does not look
BODY = b"txamt=1000&syssn=20260101180500020000000000&txcurrcd=HKD"
HEADERS = {
    "X-QF-APPCODE": APP_CODE,
    "Content-Type": "application/x-www-form-urlencoded",
    "Accept-Encoding": "identity",
    "X-QF-SIGNTYPE": "SHA256",
    "X-QF-SIGN": "B6C0D0A5AE0C5F1A9E0A2C9A6E5B9A0F5D9B7C3E1F2A4B6C8D0E2F4A6B8C0D2E",
}
_keys = itertools.count()


@contextmanager
def stub() -> Iterator[str]:
    """The URL of a stub gateway that runs as long as this."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.stub"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def run_on(loop: str, main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a new event loop of this kind: "asyncio" or "uvloop"."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    if loop == "uvloop":
        factory = import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def loops() -> list[str]:
    """The kinds of event loop that are installed here."""
    return ["asyncio", "uvloop"] if find_spec("uvloop") else ["asyncio"]


@asynccontextmanager
async def bare(url: str, concurrency: int) -> AsyncIterator[Work]:
    """The floor: a bare aiohttp `session.post` of the same bytes, its answer read."""
    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def post(caller: int) -> None:
            async with session.post(url + PATH, data=BODY, headers=HEADERS) as response:
                await response.read()

        yield callers(concurrency, post)


@asynccontextmanager
async def capturing(url: str, concurrency: int, ledger: str | Ledger) -> AsyncIterator[Work]:
    """Whole captures through the public face; each caller has a hold of its own."""
    # a new account each time: two clients on one ledger file would share a budget that is no bound here anyway
    account = f"BENCH{next(_keys)}"
    async with client(url, ledger, account=account, connections_max=concurrency) as made:
        holds = [f"2026010118050002{caller:010}" for caller in range(concurrency)]
        for hold in holds:
            await made.register_authorization(hold, HOLD, "HKD", out_trade_no=f"ORDER{hold}")

        async def capture(caller: int) -> None:
            await made.capture(holds[caller], AMOUNT, idempotency_key=f"{account}-{next(_keys)}")

        yield callers(concurrency, capture)


def client(url: str, ledger: str | Ledger, *, account: str | None = None, **settings: Any) -> PreauthClient:
    """A client whose rate budget is no bound, unless `settings` say so; all else as it is by default."""
    given = Settings(**{"requests_per_second": 100_000, "requests_per_minute": 5_000_000, **settings})
    return PreauthClient(
        Credentials(APP_CODE, CLIENT_KEY, account=account), base_url=url, ledger=ledger, settings=given
    )
