"""`doctor`: each check fine and failing, in words and as JSON, online and offline, over TLS."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from qfpay_preauth import Settings
from qfpay_preauth import _cli_checks as checks
from qfpay_preauth import _cli_ledger_checks as ledger_checks
from qfpay_preauth._cli_checks import Check, Level
from qfpay_preauth._profile import load_profile

from .kit import Shop

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def levels(shop: Shop, *arguments: str) -> tuple[int, dict[str, str], dict[str, str]]:
    """The exit code, each check's level, and each check's words with its advice."""
    done = shop("doctor", "--json", *arguments)
    found = done.objects
    says = {each["check"]: f"{each['says']} {each['advice'] or ''}" for each in found}
    return done.code, {each["check"]: each["level"] for each in found}, says


def test_a_healthy_set_up(shop: Shop) -> None:
    """Every check is a line; nothing fails: exit code 0; it sends one enquiry and moves nothing."""
    shop.hold()
    done = shop("doctor")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    for start in (
        "ok   versions: qfpay_preauth",
        "ok   ledger: sqlite:///ledger.db",
        "ok   integrity: ",
        "ok   credentials",
    ):
        assert any(line.startswith(start) for line in lines), start
    for name in ("Python", "aiohttp", "SQLite", "OpenSSL"):
        assert name in lines[0]
    assert shop.sent("query") == 1
    assert [shop.sent(each) for each in ("capture", "unfreeze", "refund")] == [0, 0, 0]


def test_as_objects(shop: Shop) -> None:
    """One for each check, with its level, words and advice."""
    shop.hold()
    code, level, _ = levels(shop)
    assert code == 0
    assert {"versions", "profile", "settings", "ledger", "integrity", "room", "TLS", "clock"} <= set(level)
    assert "fail" not in level.values()


def test_wrong_credentials(shop: Shop) -> None:
    """The account's check fails with the way out; exit code 1."""
    shop.hold()
    shop.env["QFPAY_CLIENT_KEY"] = "WRONGKEY"
    code, level, says = levels(shop)
    assert (code, level["credentials of SIMULATED_APP_CODE"]) == (1, "fail")
    assert "qfpay-preauth verify" in says["credentials of SIMULATED_APP_CODE"]
    assert "FAIL credentials" in shop("doctor").out


@pytest.mark.parametrize(
    ("kind", "how", "level"),
    [
        ("rate_limited", {}, "warn"),
        ("respcd", {"code": "1100"}, "warn"),
        ("garbled", {}, "fail"),
        ("drop_before", {}, "fail"),
    ],
)
def test_a_gateway_that_is_not_well(shop: Shop, kind: str, how: dict[str, str], level: str) -> None:
    """Answers that are none fail; a code of its own or a 429 is a warning."""
    shop.hold()
    shop.fault(kind, "query", times=None, **how)
    shop.env["QFPAY_DEADLINE_S"] = "31"
    code, found, _ = levels(shop)
    assert found["credentials of SIMULATED_APP_CODE"] == level
    assert code == (1 if level == "fail" else 0)


def test_offline(shop: Shop) -> None:
    """Clear lines, no traceback: the network fails, the ledger and the rest are checked all the same."""
    shop.hold()
    shop.wait(lambda gateway: gateway.refuse_connections())
    code, level, says = levels(shop)
    shop.wait(lambda gateway: gateway.accept_connections())
    assert (code, level["network"], level["ledger"], level["integrity"]) == (1, "fail", "ok", "ok")
    assert "127.0.0.1 is not reached: ConnectionRefusedError" in says["network"]
    assert level["credentials of SIMULATED_APP_CODE"] == "fail"


def test_no_configuration(shop: Shop) -> None:
    """Not even a profile: versions, and what is missing; exit code 1."""
    shop.env = {}
    code, level, says = levels(shop)
    assert (code, level) == (1, {"versions": "ok", "profile": "fail"})
    assert "QFPAY_CLIENT_KEY" in says["profile"]


def test_doubts_are_a_warning(shop: Shop) -> None:
    """How many, how many need a person, how old the oldest is, what to run."""
    shop.lost(shop.hold())
    code, level, says = levels(shop)
    assert (code, level["doubts of SIMULATED_APP_CODE"]) == (0, "warn")
    assert says["doubts of SIMULATED_APP_CODE"].startswith("1 in doubt, 0 of them need a person; the oldest is ")


# ------------------------------------------------------------------------------------------------ the ledger


def test_a_ledger_that_is_not_there(shop: Shop) -> None:
    """A warning where the first `register` will make it; a failure in production; never made by the doctor."""
    _, level, _ = levels(shop)
    assert level["ledger"] == "warn"
    shop.env["QFPAY_ENVIRONMENT"] = "production"
    code, level, _ = levels(shop)
    assert (code, level["ledger"]) == (1, "fail")
    assert level["credentials of SIMULATED_APP_CODE"] == "ok"
    shop.env["QFPAY_LEDGER"] += "?mode=rwc"
    assert levels(shop)[1]["ledger"] == "warn"
    assert not (shop.folder / "ledger.db").exists()


def test_a_ledger_that_forgets(shop: Shop) -> None:
    """memory:// fails; the credentials are checked all the same."""
    shop.env["QFPAY_LEDGER"] = "memory://"
    code, level, _ = levels(shop)
    assert (code, level["ledger"], level["credentials of SIMULATED_APP_CODE"]) == (1, "fail", "ok")


def test_another_environments_ledger(shop: Shop) -> None:
    """It fails, and says whose it is; the credentials are checked all the same."""
    shop.hold()
    shop.env["QFPAY_ENVIRONMENT"] = "live_test"
    code, level, says = levels(shop)
    assert (code, level["ledger"], level["credentials of SIMULATED_APP_CODE"]) == (1, "fail", "ok")
    assert "belongs to sandbox, not to live_test" in says["ledger"]


def test_a_file_that_is_no_ledger(shop: Shop) -> None:
    """It fails with the advice to restore it, and is left as it is."""
    (shop.folder / "ledger.db").write_bytes(b"this is not SQLite" * 100)
    code, level, _ = levels(shop)
    assert (code, level["ledger"]) == (1, "fail")
    assert (shop.folder / "ledger.db").read_bytes().startswith(b"this is not SQLite")


def test_a_damaged_ledger(shop: Shop) -> None:
    """A page in the middle overwritten: it opens, and the integrity check fails."""
    syssn = shop.hold()
    for number in range(30):
        shop.capture(syssn, 500 + number, f"key-{number}")
    path = shop.folder / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries'").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * size + 100 : root * size] = bytes(size - 100)
    path.write_bytes(content)
    found = ledger_checks.file_checks(path)
    assert found[0].check == "integrity"
    assert found[0].level is Level.FAIL
    assert "backup" in (found[0].advice or "")


def test_a_ledger_that_others_may_read(shop: Shop) -> None:
    """Its mode is a warning with the command that mends it."""
    shop.hold()
    (shop.folder / "ledger.db").chmod(0o644)
    _, level, says = levels(shop)
    assert level["ledger's mode"] == "warn"
    assert "chmod 600" in says["ledger's mode"]


def test_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A nearly full disk is a warning: a ledger that cannot be written stops everything."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    (found,) = ledger_checks._room(tmp_path / "ledger.db")
    assert found.level is Level.WARN


@pytest.mark.parametrize(("kind", "level"), [("nfs4", Level.FAIL), ("cifs", Level.FAIL), ("ext4", None)])
def test_a_network_disk(tmp_path: Path, kind: str, level: Level | None) -> None:
    """The mount that the file is under counts, not the one above; a blank in its name is escaped there."""
    folder = tmp_path / "my data"
    folder.mkdir()
    mounts = tmp_path / "mounts"
    escaped = str(folder).replace(" ", "\\040")
    mounts.write_text(f"proc / ext4 rw 0 0\nserver:/x {escaped} {kind} rw 0 0\nbroken\n")
    found = ledger_checks._disk(folder / "ledger.db", mounts)
    assert [each.level for each in found] == ([level] if level else [])
    assert ledger_checks._disk(folder / "ledger.db", tmp_path / "none") == []


# ------------------------------------------------------------------------------------------------ set-up


def test_misspelt_variables(shop: Shop) -> None:
    """A QFPAY_* variable that nothing reads is a warning, with the nearest known one."""
    shop.hold()
    shop.env["QFPAY_TIMOUT_TOTAL_S"] = "5"
    code, level, says = levels(shop)
    assert (code, level["variables"]) == (0, "warn")
    assert "QFPAY_TIMOUT_TOTAL_S is not read by anything. Did you mean QFPAY_TIMEOUT_TOTAL_S?" in says["variables"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"timeout_connect_s": 30.0}, "timeout_connect_s"),
        ({"deadline_s": 5.0}, "deadline_s"),
        ({"requests_per_second": 101}, "rate budget"),
        ({"requests_per_minute": 401}, "rate budget"),
        ({"quiet_period_s": 60.0}, "quiet_period_s"),
        ({"patience_s": 0.0}, "patience_s"),
    ],
)
def test_settings_that_are_rarely_meant(given: dict[str, float], says: str) -> None:
    """Each is a warning of its own; the defaults are none."""
    ((found, advice),) = checks._odd(Settings(**given))  # type: ignore[arg-type]
    assert says in found
    assert advice
    assert list(checks._odd(Settings())) == []


@pytest.mark.parametrize(
    ("ahead_s", "level", "says"),
    [
        (0, Level.OK, "ours is 0.0 s"),
        (-4, Level.OK, "ours is 4.0 s ahead of the gateway's"),
        (30, Level.WARN, "ours is 30.0 s behind the gateway's"),
        (-61, Level.FAIL, "ours is 61.0 s ahead"),
        (3_600, Level.FAIL, "3600.0 s behind"),
    ],
)
def test_the_clock(ahead_s: int, level: Level, says: str) -> None:
    """Compared with the middle of the exchange: a warning above 5 s, a failure above what evidence allows."""
    began = NOW - timedelta(seconds=1.5)
    header = format_datetime(NOW + timedelta(seconds=ahead_s), usegmt=True)
    found = checks.clock(header, began, NOW + timedelta(seconds=2.5))
    assert found.level is level
    assert says in found.says


@pytest.mark.parametrize("header", [None, "", "yesterday", "Thu, 32 Jan 2026 00:00:00 GMT"])
def test_a_gateway_without_a_clock(header: str | None) -> None:
    """It cannot be compared: a warning."""
    assert checks.clock(header, NOW, NOW).level is Level.WARN


# ------------------------------------------------------------------------------------------------ TLS


@contextmanager
def https(authority: trustme.CA, days: int = 90) -> Iterator[str]:
    """A gateway over TLS that accepts everything and shows nothing; its url."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start() -> tuple[web.AppRunner, int]:
        app = web.Application()
        app.router.add_post("/trade/v1/query", _answer)
        runner = web.AppRunner(app)
        await runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # a moment more than whole days, for what the check itself takes
        until = datetime.now(UTC) + timedelta(days=days, minutes=5)
        authority.issue_cert("127.0.0.1", not_after=until).configure_cert(context)
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield f"https://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _answer(_: web.Request) -> web.Response:
    return web.json_response({"respcd": "0000", "data": []})


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of the test's own."""
    return trustme.CA()


def test_a_certificate_that_is_verified(shop: Shop, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol, the days that are left, the clock, the credentials."""
    shop.hold()
    trusted = shop.folder / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with https(authority) as url:
        shop.env["QFPAY_BASE_URL"] = url
        done = shop.child("doctor", SSL_CERT_FILE=str(trusted))
        assert (done.returncode, done.stderr) == (0, "")
        assert "ok   TLS: TLSv1." in done.stdout
        assert "certificate verified, 90 days left" in done.stdout
        assert "ok   clock: ours is " in done.stdout
        assert "ok   credentials" in done.stdout


async def test_a_certificate_that_ends_soon(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A warning two weeks before."""
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(trusted))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with https(authority, days=5) as url:
        found = await checks.gateway(url, proxied=False)
    assert [(each.check, each.level) for each in found] == [("TLS", Level.WARN), ("clock", Level.OK)]
    assert "5 days left" in found[0].says


def test_a_certificate_that_nobody_vouches_for(shop: Shop, authority: trustme.CA) -> None:
    """It fails, says why, and what to look at; the request of the credentials is not sent either."""
    shop.hold()
    with https(authority) as url:
        shop.env["QFPAY_BASE_URL"] = url
        code, level, says = levels(shop)
    assert (code, level["TLS"], level["credentials of SIMULATED_APP_CODE"]) == (1, "fail", "fail")
    assert "the certificate is not accepted: " in says["TLS"]


async def test_behind_a_proxy(authority: trustme.CA) -> None:
    """The direct way may be closed there: a warning only."""
    with https(authority) as url:
        closed = url
    (found,) = await checks.gateway(closed, proxied=True)
    assert (found.check, found.level) == ("network", Level.WARN)


async def test_a_server_that_does_not_speak_http(tmp_path: Path) -> None:
    """A line, no traceback."""

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 what?\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        (found,) = await checks.gateway(f"http://127.0.0.1:{port}", proxied=False)
    assert found.level is Level.FAIL


def test_the_check_of_a_profile_without_a_ledger_object(tmp_path: Path) -> None:
    """`Check` is a plain value, and a PostgreSQL URL has no file to look at."""
    profile = load_profile(
        None, {"QFPAY_APP_CODE": "A", "QFPAY_CLIENT_KEY": "K", "QFPAY_LEDGER": f"sqlite:///{tmp_path}/l.db"}
    )
    assert ledger_checks._path_of(profile) == tmp_path / "l.db"
    assert Check("a", Level.OK, "b").advice is None
