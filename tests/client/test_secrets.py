"""The client key and card numbers appear nowhere: logs, reprs, errors, pickles, tracebacks, the ledger's files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from qfpay_preauth import ConfigurationError, Credentials, Outcome, PreauthClient, PreauthError, Settings
from qfpay_preauth.testing import Gateway
from tests.client.kit import Scene, bytes_in, scene
from tests.support import client_of, sqlite_url

# put together here, so that no source line that a traceback shows holds it
KEY = "".join(["Hidden", "Client", "Key", "0815"])
OTHER_KEYS = ["".join([name, "Key", "4711"]) for name in ("Notify", "Older", "OlderNotify")]
CARD = "".join(["4111", "1111", "1111", "1111"])
FAULTS = (
    "drop_before",
    "reset_after",
    "cut",
    "garbled",
    "redirect",
    "missigned",
    "rate_limited",
    "status_after",
    "huge",
)


def _told(error: BaseException) -> str:
    """Everything that an error can tell: its text, its pickle, and its traceback with every frame's variables."""
    texts = [str(error), repr(error), repr(error.__dict__), *map(repr, _frames(error))]
    if isinstance(error, PreauthError):
        texts += [repr(pickle.dumps(error)), repr(pickle.loads(pickle.dumps(error)))]
    return "\n".join(texts)


def _frames(error: BaseException | None) -> list[dict[str, str] | None]:
    """The variables of every frame but the tests' own, of an error and of what led to it."""
    found: list[dict[str, str] | None] = []
    while error is not None:
        summary = traceback.TracebackException.from_exception(error, capture_locals=True).stack
        found += [frame.locals for frame in summary if "tests" not in Path(frame.filename).parts]
        error = error.__cause__ or error.__context__
    return found


def _hidden(text: str) -> bool:
    return not any(secret in text for secret in (KEY, *OTHER_KEYS))


async def _everything_goes_wrong(one: Scene, gateway: Gateway) -> list[PreauthError]:
    """One call per fault, then the refusals of our own books; the errors."""
    errors = []
    for number, kind in enumerate(FAULTS):
        gateway.faults.add(kind, operation="capture", times=3)
        errors.append(await _error(one, f"k{number}", 1_000 + number))
        gateway.faults.clear()
    errors.append(await _error(one, "over", 50_001))
    errors.append(await _error(one, "k0", 7_777))
    errors.append(await _error(one, "", 1_000))
    await gateway.close_idle()
    await gateway.refuse_connections()
    errors.append(await _error(one, "refused", 3_000))
    await gateway.accept_connections()
    return errors


async def _error(one: Scene, key: str, amount: int) -> PreauthError:
    with pytest.raises(PreauthError) as caught:
        await one.run(key, amount)
    return caught.value


async def test_nothing_tells_the_key(
    tmp_path: Path, qfpay_gateway: Gateway, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """DEBUG logs of everything, errors with their frames' variables, pickles, reprs and the ledger's files."""
    qfpay_gateway.client_key = KEY
    qfpay_gateway.config.sign_answers = True
    asyncio.get_running_loop().set_debug(True)
    with caplog.at_level(logging.DEBUG):
        async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
            one = await scene(qfpay_gateway, client, "capture")
            errors = await _everything_goes_wrong(one, qfpay_gateway)
            result = await one.run("good", 5_000)
            doubts = [doubt async for doubt in client.in_doubt()]
            rows = [row async for row in client.query(syssn=one.syssn)]
            files = bytes_in(tmp_path)
            shown = [client, client._credentials, client._running, result, doubts, rows, client.settings]
            texts = [f"{each!r} {each}" for each in shown]
            await client.resolve(doubts[0].idempotency_key, Outcome.NOTHING_HAPPENED, reason="asked QFPay")
    assert len(errors) == len(FAULTS) + 4
    assert all(_hidden(text) for text in [*texts, *map(_told, errors), caplog.text, *capfd.readouterr()])
    assert b"good" in files  # the files that were read are the ledger's
    assert KEY.encode() not in files
    files = bytes_in(tmp_path)
    assert KEY.encode() not in files


def test_credentials_show_no_key() -> None:
    """Credentials print without secrets and refuse to be pickled."""
    names = ("notification_key", "previous_client_key", "previous_notification_key")
    credentials = Credentials("APP", KEY, **dict(zip(names, OTHER_KEYS, strict=True)))
    assert _hidden(repr(credentials))
    assert "APP" in repr(credentials)
    with pytest.raises(TypeError, match="secret"):
        pickle.dumps(credentials)


def _from_env(**changes: str) -> Callable[[], object]:
    environ = {"QFPAY_APP_CODE": "APP", "QFPAY_CLIENT_KEY": KEY, "QFPAY_LEDGER": "memory://", **changes}
    for name, value in zip(("NOTIFICATION", "PREVIOUS_CLIENT", "PREVIOUS_NOTIFICATION"), OTHER_KEYS, strict=True):
        environ[f"QFPAY_{name}_KEY"] = value
    return lambda: PreauthClient.from_env(environ)


MISTAKES: dict[str, Callable[[], object]] = {
    "app_code": lambda: Credentials("not good!", KEY),
    "client_key": lambda: Credentials("APP", f"{KEY} with blanks"),
    "sign_type": lambda: Credentials("APP", KEY, sign_type="SHA1", previous_client_key=OTHER_KEYS[0]),
    "notification_key": lambda: Credentials("APP", KEY, notification_key=f"{OTHER_KEYS[0]} "),
    "environment": lambda: PreauthClient(Credentials("APP", KEY), environment="moon", ledger="memory://"),
    "ledger": lambda: PreauthClient(Credentials("APP", KEY), ledger="mysql://"),
    "env_missing": _from_env(QFPAY_LEDGER=""),
    "env_setting": _from_env(QFPAY_TIMEOUT_TOTAL_S="soon"),
    "env_range": _from_env(QFPAY_ATTEMPTS_MAX="0"),
    "env_flag": _from_env(QFPAY_TRUST_ENV="perhaps"),
    "env_app_code": _from_env(QFPAY_APP_CODE="not good!"),
    "env_url": _from_env(QFPAY_BASE_URL="http://example.com"),
    "env_key": _from_env(QFPAY_CLIENT_KEY=f"{KEY} with blanks"),
}


@pytest.mark.parametrize("mistake", sorted(MISTAKES))
def test_configuration_errors_show_no_key(mistake: str) -> None:
    """Nor does a mistake in the set-up show a key, in any frame of this library."""
    with pytest.raises(ConfigurationError) as caught:
        MISTAKES[mistake]()
    assert _frames(caught.value)
    assert all(_hidden(repr(variables)) for variables in _frames(caught.value))
    assert _hidden(str(caught.value) + repr(caught.value) + repr(pickle.dumps(caught.value)))


# ------------------------------------------------------------------------------------------------ cards

SPACED = " ".join(CARD[start : start + 4] for start in range(0, 16, 4))
CARD_ANSWERS: dict[str, dict[str, object]] = {
    "card_field": {"cardcd": CARD},
    "user_field": {"userid": CARD, "card_holder": "MS X"},
    "message": {"respmsg": f"card {CARD} charged", "resperr": f"card {SPACED} charged"},
    "dashes": {"respmsg": SPACED.replace(" ", "-")},
    "other_text": {"memo": CARD},
    "number": {"memo": int(CARD)},
    "float": {"memo": float(CARD)},
    "nested": {"memo": {"card": CARD}, "list": [CARD]},
    "code": {"respcd": CARD},
    "int_code": {"respcd": int(CARD)},
    "time": {"sysdtm": CARD},
    "name": {CARD: "x"},
    "doubtful": {"respcd": "1143", "respmsg": f"card {CARD}"},
    "declined": {"respcd": "1201", "respmsg": f"card {CARD}", "resperr": SPACED},
}


@pytest.mark.parametrize("name", sorted(CARD_ANSWERS))
async def test_card_numbers_are_not_kept(
    tmp_path: Path, qfpay_gateway: Gateway, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """A card number that the gateway puts into an answer is neither shown, logged nor written."""
    texts = []
    with caplog.at_level(logging.DEBUG):
        async with client_of(qfpay_gateway, sqlite_url(tmp_path)) as client:
            one = await scene(qfpay_gateway, client, "capture")
            qfpay_gateway.faults.add("altered", operation="capture", changes=CARD_ANSWERS[name])
            try:
                result = await one.run()
                texts += [repr(result), repr(result.raw)]
            except PreauthError as error:
                texts += [_told(error)]
            entry = await client.entry("key")
            assert entry is not None
            texts += [repr(entry), repr(entry.raw), repr([doubt async for doubt in client.in_doubt()]), caplog.text]
            qfpay_gateway.faults.add("altered", operation="query", changes=CARD_ANSWERS[name], rows=True)
            with contextlib.suppress(PreauthError):
                texts += [repr((row, row.raw)) async for row in client.query(syssn=one.syssn)]
            files = bytes_in(tmp_path)
    files += bytes_in(tmp_path)
    assert not [text for text in texts for card in (CARD, SPACED) if card in text]
    assert not [card for card in (CARD, SPACED) if card.encode() in files]


@pytest.mark.parametrize(
    "garbage", [f"HTTQ {CARD} x\r\n\r\n", f"HTTP/1.1 2x {CARD}\r\n\r\n", f"HTTP/1.1 200 OK\r\n{CARD}\r\n\r\n"]
)
async def test_card_numbers_in_a_broken_status_line(tmp_path: Path, garbage: str) -> None:
    """Nor what comes where an HTTP status line should be; and the detail is one printable line."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(garbage.encode())
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    settings = Settings(patience_s=1)  # time for an enquiry, which is answered alike
    client = PreauthClient(Credentials("APP", KEY), base_url=url, ledger=sqlite_url(tmp_path), settings=settings)
    async with client:
        await client.register_authorization("1", 50_000, "HKD", out_trade_no="O1")
        with pytest.raises(PreauthError) as caught:
            await client.capture("1", 1_000, idempotency_key="k")
        entry = await client.entry("k")
    listener.close()
    assert entry is not None
    assert entry.detail is not None
    assert entry.detail.isprintable()
    assert CARD not in _told(caught.value) + repr(entry)
    assert CARD.encode() not in bytes_in(tmp_path)
