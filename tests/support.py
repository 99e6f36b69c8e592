"""What many tests need: settings that do not wait, and a client of the simulated gateway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qfpay_preauth import Credentials, PreauthClient, Settings
from qfpay_preauth.testing import Gateway

QUICK: dict[str, Any] = {
    "requests_per_second": 100_000,
    "requests_per_minute": 1_000_000,
    "backoff_initial_s": 0.001,
    "backoff_max_s": 0.01,
    "patience_s": 0,
}
"""A budget opened wide, short waits between attempts, no looking for evidence."""


def client_of(gateway: Gateway, ledger: Any = "memory://", **settings: Any) -> PreauthClient:
    """A client of `gateway`, not yet entered; `settings` override QUICK."""
    credentials = Credentials(gateway.app_code, gateway.client_key, mchid=gateway.mchid)
    return PreauthClient(credentials, base_url=gateway.url, ledger=ledger, settings=Settings(**{**QUICK, **settings}))


def sqlite_url(folder: Path, name: str = "ledger.db") -> str:
    """The URL of a SQLite ledger in `folder`."""
    return f"sqlite:///{folder / name}"


async def registered(
    client: PreauthClient,
    gateway: Gateway,
    amount: int = 50_000,
    currency: str = "HKD",
    out_trade_no: str | None = None,
) -> str:
    """A hold placed at the gateway and registered with the client; its syssn."""
    syssn = gateway.hold(amount, currency, out_trade_no=out_trade_no)
    number = gateway.books.holds[syssn].out_trade_no
    await client.register_authorization(syssn, amount, currency, out_trade_no=number)
    return syssn
