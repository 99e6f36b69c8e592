"""The stand-alone simulator's admin endpoints, the notifications, the plugin and the lazy face."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

import qfpay_preauth.testing as face
from qfpay_preauth.testing import Gateway, serve

from .kit import PATHS, Endpoint, Merchant, signature


class Program:
    """What a user of the running simulator knows: the lines it printed."""

    def __init__(self, lines: list[str], session: aiohttp.ClientSession) -> None:
        self.lines = lines
        self.session = session
        self.url, self.app_code, self.client_key = (line.split()[1] for line in lines[:3])

    async def admin(self, method: str, path: str, **how: Any) -> tuple[int, dict[str, Any]]:
        async with self.session.request(method, f"{self.url}/_sim/{path}", **how) as answer:
            return answer.status, await answer.json()

    async def capture(self, syssn: str, amount: int) -> dict[str, Any]:
        params = {"syssn": syssn, "txamt": str(amount)}
        headers = {"X-QF-APPCODE": self.app_code, "X-QF-SIGN": signature(params, self.client_key, "MD5")}
        async with self.session.post(self.url + PATHS["capture"], data=params, headers=headers) as answer:
            return dict(await answer.json())


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    lines: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(serve(port=0, write=lines.put_nowait))
    first = [await lines.get()]
    async with aiohttp.ClientSession() as session:
        yield Program(first + [lines.get_nowait() for _ in range(lines.qsize())], session)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


async def test_holds_books_and_faults_over_http(program: Program) -> None:
    """Form or JSON in, JSON out: a hold, a fault, a capture, the books, and a settlement."""
    status, hold = await program.admin("POST", "hold", data={"amount": "500", "out_trade_no": "O1"})
    assert (status, hold["out_trade_no"]) == (200, "O1")
    rule = {"kind": "pending", "operation": "capture"}
    assert await program.admin("POST", "faults", json=rule) == (200, {"added": "pending"})
    assert (await program.capture(hold["syssn"], 200))["respcd"] == "1143"
    assert await program.admin("POST", "settle") == (200, {"pending": 1, "late": 0})
    _, books = await program.admin("GET", "books")
    assert books["audit"] == []
    assert books["hits"] == {"pending": 1}
    assert books["holds"][0]["captured"] == 200
    assert books["holds"][0]["movements"][0]["code"] == "0000"


async def test_faults_can_be_cleared_over_http(program: Program) -> None:
    """After DELETE everything goes well."""
    await program.admin("POST", "faults", json={"kind": "respcd", "times": None})
    await program.admin("DELETE", "faults")
    _, hold = await program.admin("POST", "hold", json={"amount": 500})
    assert (await program.capture(hold["syssn"], 500))["respcd"] == "0000"


@pytest.mark.parametrize(
    ("method", "path", "how", "status"),
    [
        ("GET", "nothing", {}, 404),
        ("POST", "hold", {}, 400),
        ("POST", "hold", {"data": b"{"}, 400),
        ("POST", "faults", {"json": {"kind": "?"}}, 400),
        ("POST", "portal", {"json": {"action": "close", "syssn": "1"}}, 400),
        ("POST", "portal", {"json": {"action": "capture", "syssn": "1"}}, 400),
        ("POST", "notify_url", {}, 400),
        ("POST", "faults", {"json": {"kind": "cut", "colour": 1}}, 400),
    ],
)
async def test_wrong_admin_calls_say_why(
    program: Program, method: str, path: str, how: dict[str, Any], status: int
) -> None:
    """A mistake is answered with its reason and changes nothing."""
    got, answer = await program.admin(method, path, **how)
    assert got == status
    assert answer["error"]


async def test_the_portal_and_its_notifications_over_http(program: Program, endpoint: Endpoint) -> None:
    """A person's capture, refund and unfreeze in the portal, each notified in the background."""
    assert await program.admin("POST", "notify_url", data={"url": endpoint.url}) == (200, {"notify_url": endpoint.url})
    _, hold = await program.admin("POST", "hold", json={"amount": 500})
    done: dict[str, str] = {}
    for action, syssn, more in (
        ("capture", hold["syssn"], {"amount": "200"}),
        ("refund", "capture", {}),
        ("unfreeze", hold["syssn"], {}),
    ):
        form = {"action": action, "syssn": done.get(syssn, syssn), **more}
        status, answer = await program.admin("POST", "portal", data=form)
        assert (status, answer["amount"]) == (200, 300 if action == "unfreeze" else 200)
        done[action] = answer["syssn"]
    notices = [await endpoint.next() for _ in range(3)]
    assert {notice["syssn"] for notice in notices} == set(done.values())
    assert await program.admin("POST", "notify_url", json={"url": ""}) == (200, {"notify_url": None})
    _, books = await program.admin("GET", "books")
    assert books["audit"] == []
    assert all(each["portal"] for each in books["holds"][0]["movements"])
    assert {each["syssn"] for each in books["notifications"]} <= set(done.values())


async def test_the_printed_calls_can_be_copied(program: Program) -> None:
    """Every printed curl line is one, and names this simulator."""
    calls = [shlex.split(line) for line in program.lines if line.startswith("curl")]
    assert len(calls) == 7
    assert all(call[-1].startswith(f"{program.url}/_sim/") for call in calls)
    assert json.loads(calls[2][2]) == {"kind": "drop_after", "operation": "capture"}


async def test_notifications_are_signed_over_their_bytes(gateway: Gateway, merchant: Merchant) -> None:
    """Hold, capture, unfreeze and refund have their type, their ids and a right signature."""
    syssn = gateway.hold(1_000, out_trade_no="O1")
    capture = gateway.portal_capture(syssn, 400)
    refund = (await merchant.refund(capture, 100, "R1"))["syssn"]
    unfreeze = gateway.portal_unfreeze(syssn)
    seen = []
    for each in (syssn, capture, refund, unfreeze):
        body, headers = gateway.notification(each)
        digest = hashlib.md5(body + gateway.client_key.encode()).hexdigest().upper()
        assert headers == {"Content-Type": "application/json", "X-QF-SIGN": digest}
        fields = json.loads(body)
        seen.append((fields["notify_type"], fields.get("orig_syssn"), fields["txamt"]))
    assert seen == [
        ("payment", None, "1000"),
        ("payment", syssn, "400"),
        ("refund", capture, "100"),
        ("unfreeze", syssn, "600"),
    ]
    fields = json.loads(gateway.notification(capture, orig_syssn=None, notify_type="cancel")[0])
    assert "orig_syssn" not in fields
    assert fields["notify_type"] == "cancel"


def test_the_face_is_lazy_and_complete() -> None:
    """Importing it loads nothing; every name it offers exists; others are errors."""
    code = "import sys, qfpay_preauth.testing as t; assert 'attrs' not in sys.modules; t.Gateway"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(face, name) is not None for name in face.__all__)
    assert dir(face) == sorted(face.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        face.nothing  # noqa: B018


PLUGIN_TEST = """
import pytest
pytest_plugins = ["qfpay_preauth.testing.pytest_plugin"]

@pytest.mark.asyncio
async def test_it(qfpay_gateway):
    assert qfpay_gateway.hold(100) in qfpay_gateway.books.holds
"""


@pytest.mark.parametrize("missing", [False, True])
def test_the_plugin_gives_a_running_gateway(tmp_path: Any, missing: bool) -> None:
    """In strict mode too; without pytest-asyncio only the fixture fails, with a message."""
    text = PLUGIN_TEST
    if missing:
        (tmp_path / "pytest_asyncio.py").write_text("raise ImportError('hidden')")
        text = text.replace("@pytest.mark.asyncio\nasync ", "")
    (tmp_path / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    command += [] if missing else ["-p", "pytest_asyncio.plugin", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "test_it.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = "needs pytest-asyncio" if missing else "1 passed"
    assert expected in done.stdout, done.stdout + done.stderr
