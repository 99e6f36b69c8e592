"""The simulator as a program of its own, for clients in any language."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ._config import Config
from .gateway import Gateway


async def serve(
    host: str = "127.0.0.1",
    port: int = 8790,
    *,
    config: Config | None = None,
    write: Callable[[str], object] = print,
) -> None:
    """Serve until cancelled; ``write`` gets the address, the credentials and the admin calls, line by line.

    Notifications are delivered as soon as they are due, once a ``notify_url`` is given.
    Anybody who reaches the port can order holds, faults and notifications, so keep it on a local address.
    Raises ``OSError`` if the port is taken.
    """
    config = config or Config()
    config.admin = True
    async with Gateway(config, host=host, port=port, auto_notify=True) as gateway:
        for line in _greeting(gateway):
            write(line)
        await asyncio.Event().wait()


def _greeting(gateway: Gateway) -> list[str]:
    url, config = gateway.url, gateway.config
    return [
        f"url         {url}",
        f"app_code    {config.app_code}",
        f"client_key  {config.client_key}",
        f"mchid       {config.mchid or '(none: do not send it)'}",
        f"curl -d amount=50000 -d currency=HKD -d out_trade_no=ORDER_17 {url}/_sim/hold",
        f"curl {url}/_sim/books",
        f'curl -d \'{{"kind": "drop_after", "operation": "capture"}}\' {url}/_sim/faults',
        f"curl -X DELETE {url}/_sim/faults",
        f"curl -d action=capture -d syssn=SYSSN -d amount=20000 {url}/_sim/portal",
        f"curl -d url=http://127.0.0.1:8080/qfpay {url}/_sim/notify_url",
        f"curl -X POST {url}/_sim/settle",
    ]
