"""The README's how-tos do what they say: its web app is served and asked, its worker handles messages, its eyes see."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from qfpay_preauth.testing import Gateway
from tests.recipes.test_eyes import figure
from tests.recipes.web import check_books, environ
from tests.support import client_of, registered, sqlite_url

README = (Path(__file__).parent.parent.parent / "README.md").read_text("utf-8")


def snippet(telling: str) -> dict[str, Any]:
    """The names that the README's block with these words defines."""
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (code,) = [block for block in blocks if telling in block]
    names: dict[str, Any] = {"__name__": "pasted"}
    exec(compile(code, "README.md", "exec"), names)
    return names


async def test_the_web_app(qfpay_gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Served as it stands: a capture, its replay, a missing key refused, a notification's bad signature refused."""
    for name, value in environ(qfpay_gateway, tmp_path).items():
        monkeypatch.setenv(name, value)
    app = snippet("def create_app()")["create_app"]()
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        syssn = await registered(client, qfpay_gateway)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    async with aiohttp.ClientSession(url) as session:
        told = []
        for headers in ({"Idempotency-Key": "k"}, {"Idempotency-Key": "k"}, {}):
            async with session.post(f"/authorizations/{syssn}/captures?amount=20000", headers=headers) as response:
                told.append((response.status, (await response.json()).get("replayed")))
        async with session.post("/qfpay/notify", json={}) as response:
            assert response.status == 401
    server.should_exit = True
    await serving
    assert told == [(200, False), (200, True), (422, None)]
    await check_books(qfpay_gateway, tmp_path, {syssn: 20_000})


class Message:
    """A message that keeps what it was told."""

    def __init__(self, key: str, syssn: str, amount: str) -> None:
        self.id = key
        self.order = {"syssn": syssn, "amount": amount}
        self.told: list[str] = []

    async def ack(self) -> None:
        """It is done."""
        self.told.append("ack")

    async def again_in(self, seconds: float) -> None:
        """It comes again."""
        self.told.append("again")


async def test_the_worker(qfpay_gateway: Gateway) -> None:
    """Captured and refused messages leave; one that was not sent, and one whose outcome is unknown, come again."""
    handle = snippet("async def handle(client")["handle"]
    async with client_of(qfpay_gateway) as client:
        syssn, lost = [await registered(client, qfpay_gateway) for _ in range(2)]
        qfpay_gateway.faults.add("drop_after", operation="capture", syssn=lost)
        messages = [Message("a", syssn, "20000"), Message("b", syssn, "60000"), Message("c", lost, "500")]
        for each in messages:
            await handle(client, each)
        await qfpay_gateway.refuse_connections()
        messages.append(Message("d", syssn, "300"))
        await handle(client, messages[-1])
    assert [each.told for each in messages] == [["ack"], ["ack"], ["again"], ["again"]]


async def test_the_eyes(qfpay_gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program of the section on eyes runs, and the doubts' figures appear in Prometheus."""
    for name, value in environ(qfpay_gateway, tmp_path).items():
        monkeypatch.setenv(name, value)
    registry = CollectorRegistry()
    monkeypatch.setattr("qfpay_preauth._eyes_prometheus.REGISTRY", registry)
    running = asyncio.create_task(snippet("watch_doubts(client, eyes)")["main"]())
    async with asyncio.timeout(10):
        while figure(registry, "ledger_up") is None:
            assert not running.done()
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait((running,))
    assert figure(registry, "doubts") == 0


@pytest.mark.parametrize(
    "metric", sorted(set(re.findall(r"qfpay_preauth_([a-z_]+)", README.partition("### Alarms")[2])))
)
def test_every_alarm_names_a_metric(metric: str) -> None:
    """Each metric that an alarm asks for is one that the hook makes."""
    from qfpay_preauth._figures import METRICS

    suffix = {"counter": "_total", "histogram": "_count", "gauge": ""}
    assert metric in {f"{name}{suffix[each.kind]}" for name, each in METRICS.items()}
