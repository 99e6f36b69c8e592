"""Credentials, settings and addresses: every value is checked once, and no secret is shown."""

from __future__ import annotations

import copy
import pickle
from datetime import timedelta
from typing import Any

import pytest
from attrs import fields

from qfpay_preauth import ConfigurationError, Credentials, Settings
from qfpay_preauth._settings import HOSTS, gateway_url, settings_from

SECRETS = {
    "client_key": "secret-client",
    "notification_key": "secret-notification",
    "previous_client_key": "secret-older",
    "previous_notification_key": "secret-oldest",
}


def test_the_defaults_are_the_documented_ones() -> None:
    """The defaults are those of the design, within QFPay's limits of 100 a second and 400 a minute."""
    settings = Settings()
    assert {field.name: getattr(settings, field.name) for field in fields(Settings)} == {
        "timeout_connect_s": 5,
        "timeout_total_s": 30,
        "deadline_s": 60,
        "attempts_max": 3,
        "backoff_initial_s": 0.2,
        "backoff_max_s": 5,
        "patience_s": 10,
        "keepalive_s": 4,
        "connections_max": 64,
        "response_bytes_max": 262_144,
        "requests_per_second": 95,
        "requests_per_minute": 390,
        "capture_reference": False,
        "strict_expiry": False,
        "default_capture_window": None,
        "quiet_period_s": None,
        "currency_exponents": {},
        "trust_env": False,
    }


# name: (accepted, refused)
RANGES: dict[str, tuple[list[Any], list[Any]]] = {
    "timeout_connect_s": ([0.001, 1, 3600], [0, -1, 3601]),
    "timeout_total_s": ([0.001, 30.5, 3600], [0, -1, 3601]),
    "deadline_s": ([0.001, 60, 86_400], [0, -1, 86_401]),
    "attempts_max": ([1, 100], [0, -1, 101, 1.0, 2.5]),
    "backoff_initial_s": ([0, 0.2, 3600], [-0.1, 3601]),
    "backoff_max_s": ([0, 5, 3600], [-0.1, 3601]),
    "patience_s": ([0, 10, 86_400], [-1, 86_401]),
    "keepalive_s": ([0, 4, 3600], [-1, 3601]),
    "connections_max": ([1, 10_000], [0, -1, 10_001, 1.0]),
    "response_bytes_max": ([64, 2**30], [63, 0, 2**30 + 1, 262_144.0]),
    "requests_per_second": ([1, 10**9], [0, -1, 10**9 + 1, 95.0]),
    "requests_per_minute": ([1, 10**9], [0, -1, 10**9 + 1, 390.0]),
    "capture_reference": ([True, False], [1, 0, "true", None]),
    "strict_expiry": ([True, False], [1, 0, "true", None]),
    "trust_env": ([True, False], [1, 0, "true", None]),
    "default_capture_window": (
        [None, timedelta(minutes=1), timedelta(days=7), timedelta(days=366)],
        [7, "7", timedelta(0), timedelta(seconds=59), timedelta(days=367), -timedelta(days=7)],
    ),
    "quiet_period_s": ([None, 1, 86_400.5], [0, -1, 0.5, True, "60", float("nan")]),
    "currency_exponents": (
        [{}, {"JPY": 0}, {"JPY": 2, "IDR": 0}, {"HKD": 4}],
        [None, [("JPY", 0)], {"jpy": 0}, {"XXX": 2}, {"JPY": -1}, {"JPY": 5}, {"JPY": True}, {"JPY": 0.0}, {1: 1}],
    ),
}
NUMBERS = [name for name, (good, _) in RANGES.items() if all(type(each) in (int, float) for each in good)]
NO_NUMBER = [True, False, "5", None, [], float("nan"), float("inf"), -float("inf")]


def test_every_setting_has_its_range_here() -> None:
    """No setting without a test of its range."""
    assert set(RANGES) == {field.name for field in fields(Settings)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, (good, _) in RANGES.items() for value in good])
def test_a_setting_within_its_range_is_kept(name: str, value: Any) -> None:
    """Both ends of each range are allowed."""
    assert getattr(Settings(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, (_, bad) in RANGES.items() for value in bad]
    + [(name, value) for name in NUMBERS for value in NO_NUMBER],
    ids=lambda value: "huge" if isinstance(value, int) and value > 10**30 else repr(value)[:30],
)
def test_a_setting_out_of_its_range_is_refused_by_name(name: str, value: Any) -> None:
    """Wrong values and wrong types raise ConfigurationError that names the setting, in a short message."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        Settings(**{name: value})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("name", ["deadline_s", "attempts_max"])
def test_a_number_too_long_to_print_is_refused_by_name(name: str) -> None:
    """Even an int that Python refuses to print gives the error that names the setting."""
    given: dict[str, Any] = {name: 10**5000}
    with pytest.raises(ConfigurationError, match=name):
        Settings(**given)


def test_settings_do_not_change() -> None:
    """Settings are frozen."""
    with pytest.raises(AttributeError):
        Settings().attempts_max = 5  # type: ignore[misc] # the point of the test


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("timeout_total_s", "12.5", 12.5),
        ("deadline_s", " 90 ", 90),
        ("attempts_max", "5", 5),
        ("requests_per_second", "50", 50),
        ("response_bytes_max", "1024", 1024),
        ("backoff_initial_s", "0", 0),
        ("capture_reference", "1", True),
        ("strict_expiry", "TRUE", True),
        ("trust_env", "no", False),
        ("default_capture_window", "7", timedelta(days=7)),
        ("default_capture_window", "0.5", timedelta(hours=12)),
        ("quiet_period_s", "3600", 3600),
        ("currency_exponents", "JPY=0,idr = 2", {"JPY": 0, "IDR": 2}),
        ("currency_exponents", "", {}),
    ],
)
def test_each_setting_has_its_variable(name: str, text: str, value: Any) -> None:
    """QFPAY_ and the name in capitals sets it; other variables do not matter."""
    settings = settings_from({f"QFPAY_{name.upper()}": text, "QFPAY_CLIENT_KEY": "x", "PATH": "/"})
    assert settings == Settings(**{name: value})
    assert type(getattr(settings, name)) is type(value)


def test_without_variables_the_defaults_hold() -> None:
    """An environment without our variables gives the defaults."""
    assert settings_from({"HOME": "/", "TIMEOUT_TOTAL_S": "1"}) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *[("deadline_s", text) for text in ("", "soon", "nan", "inf", "1e999", "-1", "0", "1,5", "0x10", "9" * 5000)],
        *[("attempts_max", text) for text in ("2.0", "1e1", "three", "0", "9" * 13)],
        *[("strict_expiry", text) for text in ("", "maybe", "2")],
        *[("default_capture_window", text) for text in ("", "nan", "inf", "1e30", "0", "-7", "367", "7 days")],
        *[("currency_exponents", text) for text in ("JPY", "JPY=", "JPY=x", "JPY=0.0", "XXX=2", "JPY=9", "=2")],
    ],
)
def test_a_variable_that_cannot_be_read_is_refused_by_name(name: str, text: str) -> None:
    """The error names the variable or its setting, and nothing is guessed."""
    with pytest.raises(ConfigurationError, match=f"(?i){name}"):
        settings_from({f"QFPAY_{name.upper()}": text})


# ------------------------------------------------------------------------------------------------ addresses


def test_each_environment_has_its_host() -> None:
    """The hosts are QFPay's."""
    assert {name: gateway_url(name, None) for name in HOSTS} == {
        "production": "https://openapi-hk.qfapi.com",
        "live_test": "https://test-openapi-hk.qfapi.com",
        "sandbox": "https://openapi-int.qfapi.com",
    }


@pytest.mark.parametrize("environment", ["", "prod", "PRODUCTION", "sandbox ", None, 1, ["sandbox"]])
def test_an_unknown_environment_is_refused(environment: Any) -> None:
    """The error lists the environments."""
    with pytest.raises(ConfigurationError, match="environment must be one of production, live_test, sandbox"):
        gateway_url(environment, None)


@pytest.mark.parametrize(
    "url",
    [
        "https://gateway.example",
        "https://gateway.example:8443/base",
        "https://127.0.0.1",
        "http://localhost:8790",
        "http://127.0.0.1:1",
        "http://127.8.9.10",
        "http://[::1]:8790",
        "HTTP://LOCALHOST:8790",
    ],
)
def test_https_anywhere_and_http_to_loopback_are_accepted(url: str) -> None:
    """TLS to any host, plain http to this machine only; a trailing slash is dropped."""
    assert gateway_url("sandbox", url) == url
    assert gateway_url("production", url + "/") == url


@pytest.mark.parametrize(
    "url",
    [
        "http://gateway.example",
        "http://10.0.0.1",
        "http://0.0.0.0:8790",
        "http://[::]:8790",
        "http://[fe80::1]",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "http://evil.example#localhost",
        "http://localhost@evil.example",
        "http://127.1",
        "http://2130706433",
        "ftp://localhost",
        "ws://localhost",
        "file:///etc/passwd",
        "gateway.example",
        "//gateway.example",
        "https://",
        "https:///path",
        "https://:443",
        "https://[::1",
        "https://h:99999",
        "https://h:port",
        "https://user@h.example",
        "https://user:secret-in-url@h.example",
        "https://@h.example",
        "https://h.example/?a=b",
        "https://h.example/#top",
        "https://h.example/?",
        "https://h.example#",
        " https://h.example",
        "https://h.example\n",
        "https://h.exam\tple",
        "https://h exa.mple",
        "https://h.example/a b",
        "https://h.example\x00",
        "https://h.example\\x",
        "",
        5,
        b"https://h.example",
        ["https://h.example"],
    ],
)
def test_any_other_address_is_refused(url: Any) -> None:
    """Plain http elsewhere, other schemes, user info, query, fragment, spaces and what is no URL are refused."""
    with pytest.raises(ConfigurationError, match="base_url") as caught:
        gateway_url("sandbox", url)
    assert "secret-in-url" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ credentials


def test_credentials_never_show_secrets() -> None:
    """No secret in repr, str, format or the repr of what holds them; the names that are no secrets are shown."""
    credentials = Credentials("APP1", mchid="M1", **SECRETS)
    shown = f"{credentials!r} {credentials!s} {credentials} {[credentials]} { {'c': credentials} }"
    assert not [secret for secret in SECRETS.values() if secret in shown]
    assert "APP1" in shown
    assert "M1" in shown


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_credentials_cannot_be_pickled(protocol: int) -> None:
    """Pickling and copying through pickle fail, without a secret in the error."""
    credentials = Credentials("APP1", **SECRETS)
    for refused in (lambda: pickle.dumps(credentials, protocol), lambda: copy.deepcopy(credentials)):
        with pytest.raises(TypeError, match="cannot be pickled") as caught:
            refused()
        assert "secret-" not in str(caught.value)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", ["", " ", "secret key", "secret\n", "sécret", "secret\x00", "s" * 513, 7, b"secret"])
def test_a_bad_secret_is_refused_and_not_shown(name: str, value: Any) -> None:
    """The error names the argument and what is allowed, but not the value."""
    with pytest.raises(ConfigurationError, match=f"{name} must be printable ASCII without spaces") as caught:
        Credentials("APP1", **{**SECRETS, name: value})
    message = str(caught.value)
    assert not [shown for shown in ("secret", "sécret", "s" * 10, "7", "not ") if shown in message]


@pytest.mark.parametrize("name", ["app_code", "mchid", "account"])
@pytest.mark.parametrize("value", ["", " ", "a b", "a\n", "a&b", "a=b", "a,b", "é", "a" * 129, 5, b"a"])
def test_a_bad_name_is_refused(name: str, value: Any) -> None:
    """App code, mchid and account are signed or sent in a header: they are whitelisted."""
    given = {"app_code": "APP1", "client_key": "k", name: value}
    with pytest.raises(ConfigurationError, match=f"{name} must be 1 to 128 letters, digits"):
        Credentials(**given)


@pytest.mark.parametrize("sign_type", ["", "sha256", "SHA-256", "SHA1", None, 5])
def test_an_unknown_sign_type_is_refused(sign_type: Any) -> None:
    """SHA256 and MD5 only."""
    with pytest.raises(ConfigurationError, match="sign_type must be one of SHA256, MD5"):
        Credentials("APP1", "k", sign_type=sign_type)


@pytest.mark.parametrize(
    ("given", "account"),
    [
        ({}, "APP1"),
        ({"mchid": "M1"}, "M1"),
        ({"mchid": "M1", "account": "shop"}, "shop"),
        ({"account": "shop"}, "shop"),
    ],
)
def test_the_account_is_the_given_name_or_mchid_or_app_code(given: dict[str, str], account: str) -> None:
    """Whose money it is: the name given, else mchid, else app_code."""
    assert Credentials("APP1", "k", **given).account_name == account
