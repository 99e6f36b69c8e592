"""What depends on how bytes reach the gateway is tried both ways: on aiohttp's connections, and by `session.post`."""

from __future__ import annotations

import pytest

from qfpay_preauth import _direct

BOTH_WAYS = ("test_cancellation", "test_not_sent", "test_odd_bytes", "test_redirects", "test_faults")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test of those modules once for each way."""
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_WAYS:
        metafunc.fixturenames.append("way")
        metafunc.parametrize("way", ["direct", "session"], indirect=True)


@pytest.fixture
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way that this test's clients take."""
    if request.param == "session":
        monkeypatch.setattr(_direct, "TESTED", ())
    else:
        assert _direct.TESTED
    return str(request.param)
