"""Fixtures of the command line's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .kit import Shop, open_shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A merchant with an account at a simulated gateway, a ledger file, and a shell."""
    with open_shop(tmp_path) as made:
        yield made
