"""A pytest plugin: the fixture ``qfpay_gateway`` is a running ``Gateway`` for one test.

Nothing of the simulator is imported before a test asks for it. Needs pytest-asyncio; without it the fixture
fails with a message when used, and other tests are not disturbed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .gateway import Gateway

try:
    import pytest_asyncio
except ImportError:  # pragma: no cover - the plugin is loaded wherever the package is installed

    @pytest.fixture
    def qfpay_gateway() -> None:
        """Say what is missing."""
        pytest.fail("the fixture qfpay_gateway needs pytest-asyncio", pytrace=False)

else:

    @pytest_asyncio.fixture(name="qfpay_gateway")
    async def _qfpay_gateway() -> AsyncIterator[Gateway]:
        """A running ``Gateway`` on a free local port."""
        from .gateway import Gateway

        async with Gateway() as gateway:
            yield gateway
