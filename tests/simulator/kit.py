"""A merchant in a few lines: signs and posts with plain aiohttp, sharing no code with simulator or client."""

from __future__ import annotations

import hashlib
from typing import Any

import aiohttp

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
