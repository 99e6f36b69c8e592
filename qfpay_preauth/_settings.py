"""Who we are and how we behave: credentials, settings, environments. All values are checked here, once."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NoReturn
from urllib.parse import urlsplit

from attrs import field, fields, frozen

from qfpay_preauth._money import EXPONENT_LIMIT, EXPONENTS
from qfpay_preauth._signing import SIGN_TYPES
from qfpay_preauth.errors import ConfigurationError, shown

HOSTS: Mapping[str, str] = {
    # QFPay, "Environments"
    "production": "https://openapi-hk.qfapi.com",
    "live_test": "https://test-openapi-hk.qfapi.com",
    "sandbox": "https://openapi-int.qfapi.com",
}

_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
_BASE_URL = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(/[A-Za-z0-9._~/\-]*)?", re.IGNORECASE)
_SECRET = re.compile(r"[\x21-\x7e]{1,512}")


class Hidden(str):
    """A secret as text that no repr shows, also not the one of a frame's locals in a traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be pickled")


class HiddenMapping(dict[str, str]):
    """Environment variables, of which no repr shows any."""

    def __repr__(self) -> str:
        return f"<{len(self)} variables>"


def _hide(value: Any) -> Any:
    return Hidden(value) if isinstance(value, str) else value


@frozen(init=False)
class Credentials:
    """What QFPay assigned to the merchant. Secrets never appear in a repr, and credentials cannot be pickled.

    Args:
        app_code: QFPay's `X-QF-APPCODE`.
        client_key: the key that signs requests.
        mchid: sent with every request if QFPay assigned one, and never otherwise.
        sign_type: "SHA256" (default) or "MD5".
        notification_key: where notifications are signed with a key of their own; default: `client_key`.
        previous_client_key: still accepted on answers and notifications while a key is being changed.
        previous_notification_key: the same for `notification_key`.
        account: a name for whose money this is; default: `mchid`, or `app_code` where none is assigned.

    Raises:
        ConfigurationError: a value is empty, blank, or has characters that no header or form may carry.
    """

    app_code: str
    client_key: str = field(repr=False)
    mchid: str | None = None
    sign_type: str = "SHA256"
    notification_key: str | None = field(default=None, repr=False)
    previous_client_key: str | None = field(default=None, repr=False)
    previous_notification_key: str | None = field(default=None, repr=False)
    account: str | None = None

    def __init__(  # noqa: PLR0917 - the order is part of the public face
        self,
        app_code: str,
        client_key: str,
        mchid: str | None = None,
        sign_type: str = "SHA256",
        notification_key: str | None = None,
        previous_client_key: str | None = None,
        previous_notification_key: str | None = None,
        account: str | None = None,
    ) -> None:
        # first of all the secrets are hidden, so that not even a traceback with locals shows them
        client_key, notification_key = _hide(client_key), _hide(notification_key)
        previous_client_key, previous_notification_key = _hide(previous_client_key), _hide(previous_notification_key)
        self.__attrs_init__(
            app_code=app_code,
            client_key=client_key,
            mchid=mchid,
            sign_type=sign_type,
            notification_key=notification_key,
            previous_client_key=previous_client_key,
            previous_notification_key=previous_notification_key,
            account=account,
        )

    def __attrs_post_init__(self) -> None:
        _match("app_code", self.app_code, _NAME, "1 to 128 letters, digits or _ . : @ -")
        for name in ("mchid", "account"):
            if getattr(self, name) is not None:
                _match(name, getattr(self, name), _NAME, "1 to 128 letters, digits or _ . : @ -")
        _match("client_key", self.client_key, _SECRET, "printable ASCII without spaces", secret=True)
        for name in ("notification_key", "previous_client_key", "previous_notification_key"):
            if getattr(self, name) is not None:
                _match(name, getattr(self, name), _SECRET, "printable ASCII without spaces", secret=True)
        if self.sign_type not in SIGN_TYPES:
            raise ConfigurationError(f"sign_type must be one of {', '.join(SIGN_TYPES)}.")

    @property
    def account_name(self) -> str:
        """The name under which the ledger keeps this merchant's money."""
        return self.account or self.mchid or self.app_code

    def __getstate__(self) -> NoReturn:
        raise TypeError("Credentials hold secrets and cannot be pickled; build them anew from your secret store")


def _match(name: str, value: object, pattern: re.Pattern[str], allowed: str, *, secret: bool = False) -> None:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        but = "" if secret else f", not {shown(value, 60)}"
        raise ConfigurationError(f"{name} must be {allowed}{but}.")


def _number(low: float, high: float) -> Any:
    """An attrs validator: a finite int or float within [low, high]; an int where the default is one of those."""

    def check(instance: object, attribute: Any, value: object) -> None:
        whole = attribute.metadata.get("whole", False)
        ok = type(value) is int or (not whole and type(value) is float and math.isfinite(value))
        if not ok or not low <= value <= high:  # type: ignore[operator]
            kind = "an int" if whole else "a number"
            raise ConfigurationError(f"{attribute.name} must be {kind} from {low} to {high}, not {shown(value, 40)}.")

    return check


def _whole(default: int, low: int, high: int) -> Any:
    return field(default=default, validator=_number(low, high), metadata={"whole": True})


def _seconds(default: float | None, low: float, high: float = 31_536_000) -> Any:
    return field(default=default, validator=_optional(_number(low, high)) if default is None else _number(low, high))


def _optional(check: Any) -> Any:
    return lambda instance, attribute, value: None if value is None else check(instance, attribute, value)


def _flag(instance: object, attribute: Any, value: object) -> None:
    if type(value) is not bool:
        raise ConfigurationError(f"{attribute.name} must be True or False, not {shown(value, 40)}.")


def check_window(name: str, value: object) -> timedelta | None:
    """A capture window: None or a timedelta from one minute to 366 days.

    Raises:
        ConfigurationError: for anything else.
    """
    if value is None:
        return None
    if not isinstance(value, timedelta) or not timedelta(minutes=1) <= value <= timedelta(days=366):
        raise ConfigurationError(f"{name} must be a timedelta from a minute to 366 days, not {shown(value, 60)}.")
    return value


def _exponents(instance: object, attribute: Any, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{attribute.name} must map currencies to their number of decimals.")
    for currency, exponent in value.items():
        if currency not in EXPONENTS or type(exponent) is not int or not 0 <= exponent <= EXPONENT_LIMIT:
            raise ConfigurationError(
                f"{attribute.name}: {shown(currency, 20)} → {shown(exponent, 20)} must be one of QFPay's currencies "
                f"and an int from 0 to {EXPONENT_LIMIT}."
            )


@frozen
class Settings:
    """How the client behaves. Names end in their unit; times are seconds.

    Args:
        timeout_connect_s: for one TCP and TLS connection.
        timeout_total_s: for one exchange, from the connection to the last byte of the answer.
        deadline_s: for a whole call: budget, attempts, patience. No attempt is sent after it.
        attempts_max: how often a call may try; only what provably never left, or HTTP 429, is tried again.
        backoff_initial_s, backoff_max_s: the jittered exponential wait between attempts.
        patience_s: how long a call whose outcome is unknown looks for evidence (0: not at all).
        keepalive_s: how long an idle connection is kept.
        connections_max: connections to the gateway at one time.
        response_bytes_max: a longer answer is not read, and leaves the outcome unknown.
        requests_per_second, requests_per_minute: the budget of one account; QFPay's own limits are 100 and 400.
        capture_reference: send an `out_trade_no` of ours and `txdtm` with captures (QFPay documents both on the
            Alipay pre-authorisation page only).
        strict_expiry: refuse captures after the capture window instead of only warning.
        default_capture_window: how long holds can be captured where none is given at registration.
        quiet_period_s: allow absence to end a doubt after this time (see the README); None: never.
        currency_exponents: exponents that QFPay does not document, as it confirmed them to you ({"JPY": 0}).
        trust_env: take proxies from the environment (`HTTPS_PROXY` …); off by default.

    Raises:
        ConfigurationError: a value is out of its range or of the wrong type.
    """

    timeout_connect_s: float = _seconds(5, 0.001, 3600)
    timeout_total_s: float = _seconds(30, 0.001, 3600)
    deadline_s: float = _seconds(60, 0.001, 86_400)
    attempts_max: int = _whole(3, 1, 100)
    backoff_initial_s: float = _seconds(0.2, 0, 3600)
    backoff_max_s: float = _seconds(5, 0, 3600)
    patience_s: float = _seconds(10, 0, 86_400)
    keepalive_s: float = _seconds(4, 0, 3600)
    connections_max: int = _whole(64, 1, 10_000)
    response_bytes_max: int = _whole(262_144, 64, 2**30)
    requests_per_second: int = _whole(95, 1, 10**9)
    requests_per_minute: int = _whole(390, 1, 10**9)
    capture_reference: bool = field(default=False, validator=_flag)
    strict_expiry: bool = field(default=False, validator=_flag)
    default_capture_window: timedelta | None = field(
        default=None, validator=lambda _, attribute, value: check_window(attribute.name, value) and None
    )
    quiet_period_s: float | None = _seconds(None, 1)
    currency_exponents: Mapping[str, int] = field(factory=dict, validator=_exponents)
    trust_env: bool = field(default=False, validator=_flag)


def settings_from(environ: Mapping[str, str]) -> Settings:
    """Settings from `QFPAY_TIMEOUT_TOTAL_S` and so on: one variable per setting, upper-cased.

    Flags are `1`/`0`/`true`/`false`, the capture window is in days, exponents are `JPY=0,IDR=2`.

    Raises:
        ConfigurationError: a variable cannot be read as its setting's type, or is out of range.
    """
    given = {
        each.name: _read(each.name, environ[variable])
        for each in fields(Settings)
        if (variable := f"QFPAY_{each.name.upper()}") in environ
    }
    return Settings(**given)


def _read(name: str, text: str) -> Any:
    try:
        return _READERS.get(name, _read_number)(text.strip())
    except (ValueError, KeyError, OverflowError) as error:
        raise ConfigurationError(f"QFPAY_{name.upper()} cannot be read: {text[:40]!r}.") from error


def _read_number(text: str) -> int | float:
    return int(text) if re.fullmatch(r"-?\d{1,12}", text) else float(text)


def _read_flag(text: str) -> bool:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]


def _read_exponents(text: str) -> dict[str, int]:
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    return {currency.strip().upper(): int(exponent) for currency, _, exponent in pairs}


_READERS: Mapping[str, Any] = {
    "capture_reference": _read_flag,
    "strict_expiry": _read_flag,
    "trust_env": _read_flag,
    "default_capture_window": lambda text: timedelta(days=float(text)),
    "currency_exponents": _read_exponents,
}


def gateway_url(environment: str, base_url: str | None) -> str:
    """Where requests go: the environment's host, or `base_url` (https, or plain http to loopback only).

    Raises:
        ConfigurationError: an unknown environment, or a URL that is not acceptable.
    """
    if not isinstance(environment, str) or environment not in HOSTS:
        raise ConfigurationError(f"environment must be one of {', '.join(HOSTS)}, not {shown(environment, 40)}.")
    if base_url is None:
        return HOSTS[environment]
    if not isinstance(base_url, str):
        raise ConfigurationError("base_url must be text.")
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname or "", parts.port
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError("base_url is not a URL.") from error
    plain_ok = parts.scheme == "http" and _is_loopback(host)
    if not host or not _BASE_URL.fullmatch(base_url) or not (parts.scheme == "https" or plain_ok):
        raise ConfigurationError(
            "base_url must be https://host[:port][/path] (http:// only for a loopback address), without user, query or "
            "fragment."
        )
    return base_url.rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
