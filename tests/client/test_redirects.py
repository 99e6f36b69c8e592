"""A redirect is never followed: the second host sees nothing, and the outcome stays open."""

from __future__ import annotations

import pytest

from qfpay_preauth import GatewayError, OutcomeUnknownError
from qfpay_preauth.testing import Gateway
from tests.client.kit import OPERATIONS, scene
from tests.support import client_of

PATHS = {"capture": "/trade/v1/authtrade", "unfreeze": "/trade/v1/unfreeze", "refund": "/trade/v1/refund"}


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308])
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_write_is_not_redirected(qfpay_gateway: Gateway, operation: str, status: int) -> None:
    """A 3xx to a second gateway that would execute it: one request here, none and no connection there, in doubt."""
    async with Gateway() as second, client_of(qfpay_gateway) as client:
        one = await scene(qfpay_gateway, client, operation)
        location = second.url + PATHS[operation]
        qfpay_gateway.faults.add("redirect", operation=operation, status=status, location=location)
        error = await one.fails()
        assert isinstance(error, OutcomeUnknownError)
        assert str(status) in str(error)
        await one.check_doubt_stays()
        assert (one.sent(), second.requests, second.server.connections) == (1, [], 0)


@pytest.mark.parametrize("status", [301, 307, 308])
async def test_a_redirect_to_the_same_host(qfpay_gateway: Gateway, status: int) -> None:
    """Nor is a redirect followed on the gateway itself: it would be a second request with our signature."""
    async with client_of(qfpay_gateway) as client:
        one = await scene(qfpay_gateway, client, "capture")
        location = "/trade/v1/authtrade"
        qfpay_gateway.faults.add("redirect", operation="capture", status=status, location=location)
        assert isinstance(await one.fails(), OutcomeUnknownError)
        assert (one.sent(), one.executed()) == (1, 0)


@pytest.mark.parametrize("status", [302, 307])
async def test_enquiries_and_intents_are_not_redirected(qfpay_gateway: Gateway, status: int) -> None:
    """What moves no money is not redirected either: its signature would go to another host."""
    async with Gateway() as second, client_of(qfpay_gateway) as client:
        for path in ("/trade/v1/query", "/payment_element/v1/create_payment_intent"):
            qfpay_gateway.faults.add("redirect", operation=path, status=status, location=second.url + path)
        with pytest.raises(GatewayError):
            [row async for row in client.query()]
        with pytest.raises(GatewayError):
            await client.create_payment_intent(1_000, "HKD", out_trade_no="O1", pay_type="802801")
        assert (len(qfpay_gateway.requests), second.requests, second.server.connections) == (2, [], 0)
