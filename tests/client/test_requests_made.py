"""Users who mock aiohttp with aioresponses can: which request was made, and an answer of their own."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock
from urllib.parse import parse_qsl

import pytest
from aiohttp import ClientResponse
from aioresponses import aioresponses, core
from yarl import URL

from qfpay_preauth import Credentials, NotSentError, OutcomeUnknownError, PreauthClient, Settings

URL_CAPTURE = "https://openapi-int.qfapi.com/trade/v1/authtrade"
ANSWER = {
    "respcd": "0000",
    "syssn": "20260102000002",
    "orig_syssn": "20260102000001",
    "txamt": "1000",
    "txcurrcd": "HKD",
}


@pytest.fixture
def mocked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Aioresponses 0.7.9 with the argument that aiohttp 3.14's response class needs."""

    class Response(ClientResponse):
        def __init__(self, *args: Any, **named: Any) -> None:
            named.setdefault("stream_writer", Mock(output_size=0))
            super().__init__(*args, **named)

    monkeypatch.setattr(core, "ClientResponse", Response)
    with aioresponses() as mock:
        yield mock


def _client() -> PreauthClient:
    settings = Settings(patience_s=0, attempts_max=1)
    return PreauthClient(Credentials("APP", "KEY"), ledger="memory://", settings=settings)


async def test_which_request_was_made(mocked: aioresponses) -> None:
    """The mock sees method, URL, headers and the form that was signed; its answer becomes the result."""
    mocked.post(URL_CAPTURE, payload=ANSWER)
    async with _client() as client:
        await client.register_authorization("20260102000001", 50_000, "HKD", out_trade_no="O1")
        result = await client.capture("20260102000001", 1_000, idempotency_key="k")
    assert (result.syssn, result.amount) == ("20260102000002", 1_000)
    (call,) = mocked.requests["POST", URL(URL_CAPTURE)]
    form = dict(parse_qsl(call.kwargs["data"].decode()))
    assert form == {"txamt": "1000", "syssn": "20260102000001", "txcurrcd": "HKD"}
    assert call.kwargs["headers"]["X-QF-APPCODE"] == "APP"
    assert call.kwargs["allow_redirects"] is False


async def test_a_mocked_refusal(mocked: aioresponses) -> None:
    """HTTP 500 leaves doubt with a mock too; a mocked connection error never took the body, so it was not sent."""
    mocked.post(URL_CAPTURE, status=500)
    async with _client() as client:
        await client.register_authorization("20260102000001", 50_000, "HKD", out_trade_no="O1")
        with pytest.raises(OutcomeUnknownError):
            await client.capture("20260102000001", 1_000, idempotency_key="k")
        with pytest.raises(NotSentError):
            await client.capture("20260102000001", 2_000, idempotency_key="k2")
