"""The doctor's checks of the set-up and the gateway. None of them moves money, and none shows a secret."""

from __future__ import annotations

import asyncio
import enum
import http.client
import platform
import sqlite3
import ssl
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import SplitResult, urlsplit

from attrs import fields, frozen

from qfpay_preauth._cli_errors import in_commands
from qfpay_preauth._client import PreauthClient
from qfpay_preauth._findings import MARGIN
from qfpay_preauth._profile import Profile
from qfpay_preauth._profile_file import nearest
from qfpay_preauth._settings import Credentials, Settings
from qfpay_preauth.errors import CredentialsRejectedError, GatewayError, PreauthError, RateLimitedError

SKEW_GOOD = timedelta(seconds=5)
CERTIFICATE_DAYS_MIN = 14
REACH_S = 10.0
_NOBODYS_NUMBER = "qfpay-preauth-doctor"
_NOT_SETTINGS = ("ENVIRONMENT", "BASE_URL", "LEDGER", "CONFIG")


class Level(enum.StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@frozen
class Check:
    """One line of the doctor's report; `advice` is what to do next."""

    check: str
    level: Level
    says: str
    advice: str | None = None


def of_error(check: str, error: PreauthError) -> Check:
    """A check that ended with an error of the library."""
    return Check(check, Level.FAIL, str(error.args[0]), in_commands(error.advice))


# ------------------------------------------------------------------------------------------------ this machine


def own_version() -> str:
    """The version that is installed here, if it is."""
    from importlib import metadata  # costs a tenth of a command's start, and few commands ask

    try:
        return metadata.version("qfpay_preauth")
    except metadata.PackageNotFoundError:
        return "not installed: run from its source"


def versions() -> Check:
    """What this command is made of."""
    from importlib import metadata

    says = (
        f"qfpay_preauth {own_version()}, Python {platform.python_version()} on {sys.platform}, aiohttp "
        f"{metadata.version('aiohttp')}, SQLite {sqlite3.sqlite_version}, {ssl.OPENSSL_VERSION}"
    )
    return Check("versions", Level.OK, says)


def variables(environ: Mapping[str, str]) -> Iterator[Check]:
    """QFPAY_* variables that nothing reads: misspelt ones are silently without effect."""
    names = [each.name.upper() for kind in (Settings, Credentials) for each in fields(kind)]
    known = {f"QFPAY_{name}" for name in (*names, *_NOT_SETTINGS)}
    for name in sorted(environ):
        if name.startswith("QFPAY_") and name not in known:
            close = nearest(name, known).partition(" Known:")[0].strip()
            yield Check(
                "variables", Level.WARN, f"{name} is not read by anything. {close}".strip(), "Correct or unset it."
            )


def settings(profile: Profile) -> Iterator[Check]:
    """Settings that work, but rarely as they were meant."""
    found = list(_odd(profile.settings))
    for says, advice in found:
        yield Check("settings", Level.WARN, says, advice)
    if not found:
        yield Check("settings", Level.OK, "nothing unusual")


def _odd(given: Settings) -> Iterator[tuple[str, str]]:
    if given.timeout_connect_s >= given.timeout_total_s:
        yield (
            "timeout_connect_s is not below timeout_total_s",
            "Lower it: a connect that fails proves nothing was sent.",
        )
    if given.deadline_s < given.timeout_total_s:
        yield "deadline_s is below timeout_total_s: a call ends before its answer may come", "Raise deadline_s."
    if given.requests_per_second > 100 or given.requests_per_minute > 400:
        yield "the rate budget is above QFPay's 100 a second and 400 a minute", "Lower it, or expect HTTP 429."
    if given.quiet_period_s is not None and given.quiet_period_s < 3_600:
        yield (
            f"quiet_period_s is {given.quiet_period_s:g}: if rows come later than that, absence lies",
            "Set it to hours, or leave it out.",
        )
    if given.patience_s == 0:
        yield "patience_s is 0: a lost answer is in doubt at once", "Leave it at its default, and reconcile."


# ------------------------------------------------------------------------------------------------ the gateway


async def gateway(url: str, *, proxied: bool) -> list[Check]:
    """Whether the host is reached, its certificate, and its clock: one HEAD request without credentials."""
    try:
        return await asyncio.to_thread(_head, urlsplit(url))
    except ssl.SSLCertVerificationError as error:
        advice = "Check this machine's clock, its CA certificates (SSL_CERT_FILE), and whether a proxy opens TLS."
        return [Check("TLS", Level.FAIL, f"the certificate is not accepted: {error.verify_message}", advice)]
    except (OSError, http.client.HTTPException) as error:
        what = f"{urlsplit(url).hostname} is not reached: {type(error).__name__}: {error}"
        if proxied:
            return [
                Check("network", Level.WARN, f"{what} (without the proxy)", "With trust_env it may be as it should.")
            ]
        return [Check("network", Level.FAIL, what, "Check the network, DNS, firewall and base_url.")]


def _head(parts: SplitResult) -> list[Check]:
    secure = parts.scheme.lower() == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=REACH_S)
    try:
        connection.connect()
        checks = [_tls(connection.sock)]
        began = datetime.now(UTC)
        connection.request("HEAD", parts.path or "/")
        date = connection.getresponse().getheader("Date")
        return [*checks, clock(date, began, datetime.now(UTC))]
    finally:
        connection.close()


def _tls(sock: object) -> Check:
    if not isinstance(sock, ssl.SSLSocket):
        return Check("TLS", Level.OK, "none: plain http to this machine, for a simulator")
    ends = ssl.cert_time_to_seconds(str((sock.getpeercert() or {})["notAfter"]))
    left = datetime.fromtimestamp(ends, UTC) - datetime.now(UTC)
    says = f"{sock.version()}, certificate verified, {left.days} days left"
    if left.days < CERTIFICATE_DAYS_MIN:
        return Check("TLS", Level.WARN, says, "Ask QFPay (or whoever runs base_url) whether it will be renewed.")
    return Check("TLS", Level.OK, says)


def clock(date: str | None, began: datetime, ended: datetime) -> Check:
    """Our clock against the `Date` header of an answer (whole seconds)."""
    try:
        theirs = parsedate_to_datetime(date or "")
        theirs = theirs.replace(tzinfo=theirs.tzinfo or UTC)
    except ValueError:
        return Check("clock", Level.WARN, "the gateway does not say its time", "Compare this machine's clock yourself.")
    between = began + (ended - began) / 2
    skew = (theirs + timedelta(seconds=0.5) - between).total_seconds()
    says = f"ours is {abs(skew):.1f} s {'behind' if skew > 0 else 'ahead of'} the gateway's"
    if abs(skew) <= SKEW_GOOD.total_seconds():
        return Check("clock", Level.OK, says)
    level = Level.WARN if abs(skew) <= MARGIN.total_seconds() else Level.FAIL
    return Check("clock", level, says, "Set the clock by NTP: evidence is compared by time.")


async def credentials(name: str, client: PreauthClient) -> Check:
    """Whether the gateway accepts this account: one enquiry for a number that nobody uses."""
    check, now = f"credentials of {name}", datetime.now(UTC)
    try:
        rows = [row async for row in client.query(out_trade_no=_NOBODYS_NUMBER, start=now, end=now)]
    except CredentialsRejectedError as error:
        return of_error(check, error)
    except RateLimitedError as error:
        return Check(check, Level.WARN, str(error.args[0]), "Run it again in a minute.")
    except GatewayError as error:
        if error.code is None:
            return of_error(check, error)
        # whoever answers with a code of its own has accepted the signature
        return Check(check, Level.WARN, str(error.args[0]), "The credentials seem accepted; the enquiry is not.")
    except PreauthError as error:
        return of_error(check, error)
    took = (datetime.now(UTC) - now).total_seconds() * 1000
    return Check(check, Level.OK, f"accepted by {client.environment} in {took:.0f} ms ({len(rows)} rows)")
