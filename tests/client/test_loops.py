"""Event loops come and go, clients are closed and entered again, threads have a client each."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path

import pytest

from qfpay_preauth import ConfigurationError, PreauthClient, PreauthError
from qfpay_preauth.testing import Config, Gateway
from tests.client.kit import captured_at, turns, until
from tests.support import client_of, registered, sqlite_url


def test_a_new_client_in_a_second_loop(tmp_path: Path) -> None:
    """Two asyncio.run() in a row, a client each, one ledger file: the second knows what the first did."""
    url = sqlite_url(tmp_path)

    async def run() -> tuple[bool, int]:
        async with Gateway(Config(syssn_start=1)) as gateway, client_of(gateway, url) as client:
            syssn = gateway.hold(50_000, out_trade_no="O1")
            await client.register_authorization(syssn, 50_000, "HKD", out_trade_no="O1")
            result = await client.capture(syssn, 1_000, idempotency_key="k")
            return result.replayed, len(gateway.requests)

    assert asyncio.run(run()) == (False, 1)
    assert asyncio.run(run()) == (True, 0)


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("entered", [True, False])
def test_the_same_client_in_a_second_loop(tmp_path: Path, kind: str, entered: bool) -> None:
    """A client that was closed can be entered again in another loop, and its ledger keeps the books."""
    gateway = Gateway()
    made: list[PreauthClient] = []
    syssns: list[str] = []

    async def run(amount: int, key: str) -> tuple[bool, int]:
        async with gateway:
            if not made:
                made.append(client_of(gateway, "memory://" if kind == "memory" else sqlite_url(tmp_path)))
                made[0].base_url = gateway.url
                syssns.append(await registered(made[0], gateway))
            client = made[0]
            if entered and client._running is None:
                await client.__aenter__()
            result = await client.capture(syssns[0], amount, idempotency_key=key)
            balance = await client.balance(syssns[0])
            await client.aclose()
            if not entered:
                client._closed = False
            return result.replayed, balance.captured

    assert asyncio.run(run(1_000, "a")) == (False, 1_000)
    made[0].base_url = gateway.url  # the gateway came back under another port
    gateway._where = ("127.0.0.1", 0)
    assert asyncio.run(run(1_000, "a")) == (True, 1_000)
    assert gateway.books.totals(syssns[0]).captured == 1_000


def test_a_client_in_each_of_two_threads(tmp_path: Path) -> None:
    """Two threads, a loop and a client each, one ledger file and one account: nothing is executed twice."""
    url = sqlite_url(tmp_path)
    failures: list[BaseException] = []

    async def work(gateway_url: str, syssn: str, name: str) -> None:
        gateway = Gateway()
        async with client_of(gateway) as probe:
            credentials = probe._credentials
        client = PreauthClient(credentials, base_url=gateway_url, ledger=url)
        async with client:
            for number in range(20):
                try:
                    await client.capture(syssn, 100 + number, idempotency_key=f"shared-{number}")
                    await client.capture(syssn, 300 + number, idempotency_key=f"{name}-{number}")
                except PreauthError as error:
                    assert type(error).__name__ == "OperationInProgressError"  # noqa: PT017 - the only one allowed

    def thread(gateway_url: str, syssn: str, name: str) -> None:
        try:
            asyncio.run(work(gateway_url, syssn, name))
        except BaseException as error:
            failures.append(error)

    async def main() -> None:
        async with Gateway() as gateway:
            async with client_of(gateway, url) as client:
                syssn = await registered(client, gateway)
            threads = [threading.Thread(target=thread, args=(gateway.url, syssn, name)) for name in ("a", "b")]
            for each in threads:
                each.start()
            await until(lambda: not any(each.is_alive() for each in threads))
            done = captured_at(gateway, syssn)
            assert all(done[100 + number] <= 1 for number in range(20))
            assert all(done[300 + number] <= 2 for number in range(20))
            async with client_of(gateway, url) as client:
                assert (await client.balance(syssn)).captured == gateway.books.totals(syssn).captured
            assert gateway.books.audit() == []

    asyncio.run(main())
    assert failures == []


async def test_a_closed_client_says_so(qfpay_gateway: Gateway) -> None:
    """Every method of a closed client is a ConfigurationError; closing twice does nothing; entering again works."""
    client = client_of(qfpay_gateway)
    async with client:
        syssn = await registered(client, qfpay_gateway)
    await client.aclose()
    calls = [
        client.capture(syssn, 1_000, idempotency_key="k"),
        client.unfreeze(syssn, idempotency_key="k"),
        client.refund("1", 1_000, idempotency_key="k"),
        client.balance(syssn),
        client.entry("k"),
        client.register_authorization("2", 1_000, "HKD", out_trade_no="O"),
        client.create_payment_intent(1_000, "HKD", out_trade_no="O", pay_type="802801"),
        anext(client.in_doubt()),
        anext(client.query()),
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="closed"):
            await call
    assert qfpay_gateway.requests == []
    async with client:
        assert (await client.balance(syssn)).capturable == 50_000


@pytest.mark.parametrize("ledger", ["memory", "sqlite"])
async def test_closing_while_opening(tmp_path: Path, qfpay_gateway: Gateway, ledger: str) -> None:
    """aclose() during a first call's opening leaves neither session nor thread, and the call ends with one error."""
    threads = set(threading.enumerate())
    for steps in range(12):
        url = "memory://" if ledger == "memory" else sqlite_url(tmp_path, f"{steps}.db")
        client = client_of(qfpay_gateway, url)
        call = asyncio.create_task(client.balance("1"))
        await turns(steps)
        await client.aclose()
        with pytest.raises(PreauthError):
            await call
        assert client._running is None
    gc.collect()  # an unclosed session would warn now, and a warning is an error here
    assert set(threading.enumerate()) - threads == set()


async def test_first_use_from_many_tasks(tmp_path: Path, qfpay_gateway: Gateway) -> None:
    """A client that was not entered opens itself once, whoever comes first, and closes with aclose()."""
    client = client_of(qfpay_gateway, sqlite_url(tmp_path))
    syssns = await asyncio.gather(*(registered(client, qfpay_gateway) for _ in range(10)))
    calls = (client.capture(syssn, 1_000, idempotency_key=syssn) for syssn in syssns)
    assert [each.amount for each in await asyncio.gather(*calls)] == [1_000] * 10
    await client.aclose()
    assert sum(thread.name.startswith("qfpay") for thread in threading.enumerate()) == 0


async def test_from_env(tmp_path: Path, qfpay_gateway: Gateway) -> None:
    """The environment alone sets a client up: credentials, URL, ledger, settings."""
    qfpay_gateway.mchid = "M1"
    environ = {
        "QFPAY_APP_CODE": qfpay_gateway.app_code,
        "QFPAY_CLIENT_KEY": qfpay_gateway.client_key,
        "QFPAY_MCHID": "M1",
        "QFPAY_ENVIRONMENT": "live_test",
        "QFPAY_BASE_URL": qfpay_gateway.url,
        "QFPAY_SIGN_TYPE": "MD5",
        "QFPAY_LEDGER": sqlite_url(tmp_path),
        "QFPAY_TIMEOUT_TOTAL_S": "12.5",
        "QFPAY_CAPTURE_REFERENCE": "true",
        "QFPAY_CURRENCY_EXPONENTS": "JPY=0",
        "QFPAY_DEFAULT_CAPTURE_WINDOW": "7",
        "PATH": "/nowhere",
    }
    async with PreauthClient.from_env(environ) as client:
        syssn = await registered(client, qfpay_gateway, 5_000, "JPY")
        assert (await client.capture(syssn, 1_000, idempotency_key="k")).currency == "JPY"
        assert (client.account, client.environment, client.settings.timeout_total_s) == ("M1", "live_test", 12.5)
    request = qfpay_gateway.requests[-1]
    assert request.params["mchid"] == "M1"
    assert "x-qf-signtype" not in request.headers
    assert len(request.params["out_trade_no"]) == 32
    with pytest.raises(ConfigurationError, match="QFPAY_CLIENT_KEY, QFPAY_LEDGER"):
        PreauthClient.from_env({"QFPAY_APP_CODE": "a"})
