"""Fixtures of the command's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from qfpay_preauth import PreauthClient
from qfpay_preauth import _batch_teller as teller
from qfpay_preauth.testing import Gateway
from tests.cli.kit import Shop, open_shop
from tests.support import client_of


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A merchant with an account at a simulated gateway, a ledger file, and a shell."""
    with open_shop(tmp_path) as made:
        yield made


@pytest.fixture
async def client(qfpay_gateway: Gateway) -> AsyncIterator[PreauthClient]:
    """A quick client with a memory ledger."""
    async with client_of(qfpay_gateway) as client:
        yield client


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again within a run is tried again at once."""
    monkeypatch.setattr(teller, "_LOOK_FIRST_S", 0.001)
