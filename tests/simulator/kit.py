"""A merchant in a few lines, sharing no code with simulator or client: requests out, notifications in."""

from __future__ import annotations

import asyncio
import hashlib
import json
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp import web

from qfpay_preauth.testing import Gateway

PATHS = {
    "capture": "/trade/v1/authtrade",
    "unfreeze": "/trade/v1/unfreeze",
    "refund": "/trade/v1/refund",
    "query": "/trade/v1/query",
    "create_payment_intent": "/payment_element/v1/create_payment_intent",
}
TXDTM = "2026-03-04 05:06:07"


def signature(params: dict[str, str], key: str, sign_type: str = "SHA256") -> str:
    text = "&".join("=".join(pair) for pair in sorted(params.items())) + key
    return hashlib.new(sign_type.lower(), text.encode()).hexdigest().upper()


class Merchant:
    """Posts signed forms to one gateway."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession) -> None:
        self.gateway = gateway
        self.session = session

    def headers(self, params: dict[str, str], sign_type: str = "SHA256") -> dict[str, str]:
        sign = signature(params, self.gateway.client_key, sign_type)
        return {"X-QF-APPCODE": self.gateway.app_code, "X-QF-SIGN": sign, "X-QF-SIGNTYPE": sign_type}

    def post(self, operation: str, headers: dict[str, str] | None = None, /, **params: str) -> Any:
        """The request as a context manager of the response."""
        return self.session.post(
            self.gateway.url + PATHS[operation],
            data=params,
            headers=self.headers(params) if headers is None else headers,
            allow_redirects=False,
        )

    async def ask(self, operation: str, headers: dict[str, str] | None = None, /, **params: str) -> dict[str, Any]:
        """The decoded answer."""
        async with self.post(operation, headers, **params) as response:
            assert response.status == 200
            answer: dict[str, Any] = await response.json()
            return answer

    async def code(self, operation: str, **params: str) -> str:
        """The answer's respcd."""
        return str((await self.ask(operation, **params))["respcd"])

    async def capture(self, syssn: str, amount: int, **more: str) -> dict[str, Any]:
        return await self.ask("capture", syssn=syssn, txamt=str(amount), **more)

    async def unfreeze(self, syssn: str, amount: int) -> dict[str, Any]:
        number = self.gateway.books.holds[syssn].out_trade_no
        return await self.ask("unfreeze", syssn=syssn, txamt=str(amount), txdtm=TXDTM, out_trade_no=number)

    async def refund(self, capture: str, amount: int, number: str = "R1") -> dict[str, Any]:
        return await self.ask("refund", syssn=capture, txamt=str(amount), txdtm=TXDTM, out_trade_no=number)

    async def rows(self, **params: str) -> list[dict[str, Any]]:
        answer = await self.ask("query", **params)
        assert answer["respcd"] == "0000", answer
        return list(answer["data"])


class Endpoint:
    """The merchant's address for notifications: keeps what comes and answers ``answers`` in turn, then SUCCESS."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, str]] = []
        self.opened: asyncio.Event | None = None  # if there is one, answers wait for it
        self.url = ""
        self._unread: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        app = web.Application(client_max_size=8_000_000)
        app.router.add_post("/qfpay", self._take)
        self._runner = web.AppRunner(app)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/qfpay"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    @property
    def notices(self) -> list[dict[str, Any]]:
        """Every body that came, decoded."""
        return [json.loads(body) for body in self.bodies]

    async def next(self) -> dict[str, Any]:
        """The next notification that nobody has waited for yet."""
        return await asyncio.wait_for(self._unread.get(), 10)

    def genuine(self, key: str) -> list[bool]:
        """Of each body, whether it is signed with this key as QFPay signs."""
        digests = [hashlib.md5(body + key.encode()).hexdigest().upper() for body in self.bodies]
        return [head.get("X-QF-SIGN") == digest for head, digest in zip(self.headers, digests, strict=True)]

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        self._unread.put_nowait(json.loads(body))
        if self.opened is not None:
            await self.opened.wait()
        status, text = self.answers.pop(0) if self.answers else (200, "SUCCESS")
        return web.Response(status=status, text=text, headers={"Location": "/elsewhere"} if status == 302 else {})
