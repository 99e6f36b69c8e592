"""Several processes on one ledger, with trouble on the way: the books here and the gateway's agree. The long version
is `python -m tests.postgres`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .load import run, stop_and_start, terminate_backends
from .server import Server, server


async def test_processes_share_holds_and_keys(postgres: Server, tmp_path: Path) -> None:
    """Six processes capture on shared holds under partly shared keys, a tenth of the answers lost: nothing is wrong."""
    outcome = await run(postgres, tmp_path, processes=6, holds=24, seed=1)
    assert outcome.wrong == []
    assert outcome.executed > 400
    assert outcome.lost > 20
    for seen in ("captured", "replayed", "OverCaptureError", "OutcomeUnknownError"):
        assert outcome.said[seen], seen


async def test_processes_survive_what_befalls_their_connections(postgres: Server, tmp_path: Path) -> None:
    """The same while the server ends connections at random and callers leave: nobody hears of it but by waiting."""
    outcome = await run(
        postgres, tmp_path, processes=3, holds=16, seed=2, troubles=(terminate_backends,), cancelled=0.2
    )
    assert outcome.wrong == []
    assert outcome.said["cancelled"] > 20
    assert not outcome.said["LedgerUnavailableError"]


@pytest.mark.skipif("QFPAY_TEST_POSTGRES" in os.environ, reason="only a server of our own can be stopped")
async def test_processes_survive_a_server_that_stops_at_once(tmp_path: Path) -> None:
    """The same while the server is stopped as if its machine had failed, and comes back: captures wait, and go on."""
    with server(tmp_path / "postgres") as own:
        outcome = await run(own, tmp_path, processes=3, holds=16, seed=3, troubles=(stop_and_start,))
    assert outcome.wrong == []
    assert outcome.executed > 200
    assert not outcome.said["LedgerUnavailableError"]
