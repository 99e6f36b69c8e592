"""Entries that callers get are theirs: to be dumped, pickled and changed, without a trace in the books."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from qfpay_preauth import Entry, Outcome, State
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import HOLD, LOST, entry_of, lose, teach_words
from tests.support import client_of, registered, sqlite_url


def _use(entry: Entry | None) -> None:
    assert entry is not None
    assert isinstance(entry.raw, dict)
    assert json.loads(json.dumps(entry.raw)) == entry.raw
    assert pickle.loads(pickle.dumps(entry)) == entry
    entry.raw["respcd"] = "changed"


@pytest.mark.parametrize("kept", ["memory", "sqlite"])
async def test_entries_are_the_callers_own(qfpay_gateway: Gateway, tmp_path: Path, kept: str) -> None:
    """entry(), reconcile() and resolve() give entries whose `raw` can be dumped, pickled and changed at will."""
    ledger = sqlite_url(tmp_path) if kept == "sqlite" else "memory://"
    async with client_of(qfpay_gateway, ledger) as client:
        await teach_words(client, qfpay_gateway)
        syssn = await registered(client, qfpay_gateway, HOLD)
        await lose(client, qfpay_gateway, syssn, key="found", fault="pending", then="0000")
        await lose(client, qfpay_gateway, syssn, LOST + 1, key="resolved", fault="pending", then="0000")
        _use(await client.entry("found"))
        _use(await client.resolve("resolved", Outcome.HAPPENED, reason="seen in the portal"))
        qfpay_gateway.settle_pending()
        (ended,) = (await client.reconcile()).ended
        _use(ended)
        assert ended.idempotency_key == "found"
        for key in ("resolved", "found"):
            entry = await entry_of(client, key)
            assert entry.state is State.EXECUTED
            assert (entry.raw or {}).get("respcd") != "changed"
