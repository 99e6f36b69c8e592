"""A gateway on a settable clock and a merchant who talks to it over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest

from qfpay_preauth.testing import Gateway

from .kit import Endpoint, Merchant


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 15, 4, 0, 0, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, **by: float) -> None:
        self.now += timedelta(**by)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def gateway(clock: Clock) -> AsyncIterator[Gateway]:
    async with Gateway(clock=clock) as running:
        yield running


@pytest.fixture
async def merchant(gateway: Gateway) -> AsyncIterator[Merchant]:
    async with aiohttp.ClientSession() as session:
        yield Merchant(gateway, session)


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    async with Endpoint() as listening:
        yield listening
