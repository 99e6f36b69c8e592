"""What several tests of the SQLite ledger begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qfpay_preauth.testing._ledger_kit import Scene

from .kit import opened


@pytest.fixture
async def s(tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene with one hold on a SQLite ledger."""
    ledger, scene = await opened(tmp_path)
    await scene.hold()
    yield scene
    await ledger.close()
