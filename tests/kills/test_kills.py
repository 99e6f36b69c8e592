"""Twenty processes killed under load on one file, and the auditor itself on files that were made wrong."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from qfpay_preauth.testing import Gateway
from tests.evidence.kit import lose
from tests.kills import audit
from tests.kills.harness import Round, Summary, run
from tests.nursery import Nursery
from tests.support import client_of, registered, sqlite_url


async def test_twenty_kills(tmp_path: Path) -> None:
    """Whatever moment a process is killed at: the file is sound, nothing runs twice, and the books come to agree."""
    summary = await run(tmp_path, kills=20, workers=4, seed=1)
    assert summary.violations == []
    assert summary.kills == 20
    assert len(summary.where) > 3
    assert summary.executions > 50


async def test_the_end_waits_for_what_the_enquiry_shows_late(tmp_path: Path) -> None:
    """A capture that was executed a moment ago, where the enquiry lags, is no doubt that nobody ended."""
    summary = Summary()
    with Nursery() as nursery:
        one = Round(nursery, tmp_path, 7, 1, summary, pauses=False)
        gateway = one._gateway
        assert one._certain
        async with gateway:
            await one._make_file()
            gateway.config.query_lag = timedelta(hours=1)
            async with client_of(gateway, one._url) as client:
                await lose(client, gateway, await registered(client, gateway))
            await one._end(-1)
    assert (summary.violations, summary.doubts_left, summary.doubts_ended) == ([], 0, 1)


SPOILED = {
    "claimed is": "UPDATE authorizations SET claimed = claimed + 1",
    "captured is": "UPDATE authorizations SET captured = captured - 1, refunded = 0",
    "its entries are \\[\\]": "DROP TRIGGER entries_stay; DELETE FROM entries WHERE idempotency_key = 'k'",
    "and its entries are": "DROP TRIGGER entries_end_for_good; UPDATE entries SET state = 'not_executed'",
    "which its history does not say": "DROP TRIGGER entries_end_for_good; UPDATE entries SET state = 'not_executed'",
    "its caller got": "DROP TRIGGER entries_end_for_good; UPDATE entries SET result_syssn = 'other'",
    "and the gateway has": "DROP TRIGGER entries_end_for_good; UPDATE entries SET result_syssn = 'other'",
    "reserved at \\[\\]": "DROP TRIGGER events_stay; DELETE FROM events WHERE to_state = 'held'",
    "but it was": "DROP TRIGGER events_stay; DELETE FROM events WHERE to_state = 'held'",
    "a history without": "DROP TRIGGER entries_stay; DELETE FROM entries WHERE idempotency_key = 'k'",
    "foreign key": "DROP TRIGGER authorizations_stay; DELETE FROM authorizations",
}


@pytest.mark.parametrize("rule", SPOILED)
async def test_the_auditor_sees(qfpay_gateway: Gateway, tmp_path: Path, rule: str) -> None:
    """A sound file passes; one change to it breaks the rule that it is about."""
    path = tmp_path / "ledger.db"
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        syssn = await registered(client, qfpay_gateway)
        capture = await client.capture(syssn, 700, idempotency_key="k")
    said = {"k": str(capture.syssn)}
    assert audit.violations(path, qfpay_gateway, said) == []
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SPOILED[rule])
    found = audit.violations(path, qfpay_gateway, said)
    assert [each for each in found if re.search(rule, each)], found


async def test_the_auditor_sees_a_second_execution(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """What the gateway executed twice, or without us, is a violation; what is neither here nor in doubt is listed."""
    async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
        syssn = await registered(client, qfpay_gateway)
        await client.capture(syssn, 700, idempotency_key="k")
    qfpay_gateway.portal_capture(syssn, 700)
    path = tmp_path / "ledger.db"
    (found,) = audit.violations(path, qfpay_gateway, {})
    assert found == f"('capture', '{syssn}', 700) was executed (or is pending) 2 times"
    assert audit.difference(path, qfpay_gateway).unlisted == [("capture", syssn, 700)]
