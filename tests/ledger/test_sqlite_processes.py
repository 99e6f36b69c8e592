"""Four processes on one file: never over the hold, no key twice, every sum the fold of its history."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from .kit import child, opened, sql, together

HOLDS = {f"HOLD-{n}": 2_000 + 1_000 * n for n in range(4)}


async def _prepare(folder: Path) -> Path:
    ledger, s = await opened(folder)
    for syssn, amount in HOLDS.items():
        await s.hold(amount, syssn)
    await ledger.close()
    return ledger.path


async def _check(folder: Path, ran: list[str]) -> None:
    ledger, s = await opened(folder)
    with sql(ledger.path) as connection:
        keys = [key for (key,) in connection.execute("SELECT idempotency_key FROM entries")]
        executed = [
            key for (key,) in connection.execute("SELECT idempotency_key FROM entries WHERE state = 'executed'")
        ]
    assert sorted(executed) == sorted(ran)
    for syssn, amount in HOLDS.items():
        await s.check_fold(keys, syssn)
        balance = await s.balance(syssn)
        assert 0 < balance.captured <= amount
        assert (balance.held, balance.in_doubt) == (0, 0)
    for key in keys:
        assert await s.discrepancies(key) == []
    await ledger.close()


def test_four_processes_share_holds_and_keys(tmp_path: Path) -> None:
    """Each reserves and concludes on shared holds, partly under shared keys; together they never go wrong."""
    path = asyncio.run(_prepare(tmp_path))
    lines = together([child("work", str(path), name, str(seed)) for seed, name in enumerate("abcd")])
    reports = [json.loads(line) for line in lines]
    ran = [key for report in reports for key in report["ran"]]
    assert max(Counter(ran).values()) == 1
    said = sum((Counter(report["said"]) for report in reports), Counter[str]())
    assert said["fresh"] >= len(ran) > 0
    assert said["OverCaptureError"] > 0
    assert said["replay"] + said["OperationInProgressError"] > 0
    assert set(said) <= {"fresh", "replay", "OverCaptureError", "OperationInProgressError"}
    with sql(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    asyncio.run(_check(tmp_path, ran))
