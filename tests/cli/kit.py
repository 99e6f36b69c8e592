"""Runs the command line as a user does: another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

KEY = "c49ce1d444994b419934286eb07b40f2"

V1_PARAMS = {
    "address": "TST",
    "bankaccount": "168477081838",
    "bankaddr": "TST",
    "bankcity": "Hong Kong",
    "bankcode": "123",
    "bankcountry": "Hong Kong",
    "bankname": "HSBC",
    "bankswiftcode": "HSBCHKHHHKH",
    "bankuser": "Peter",
    "channel_type": "",
    "city": "Hong Kong",
    "country": "Hong Kong",
    "email": "peter@test.com",
    "idnumber": "172845391795",
    "legalperson": "Peter",
    "licenseactive_date": "20160810",
    "licensenumber": "123456",
    "mcc_id": "21002",
    "mobile": "123456",
    "name": "Peter ",
    "shopname": "PeterShopR",
    "username": "peter@test.com001",
}
V1_SIGNATURE = "3a7a3bba647fb6fbc28f6687d78212e2"
"""Published by QFPay (2016), MD5 with KEY: an empty value and a trailing blank are part of it."""

V2_BODY = (
    rb'{"pay_type": "800108", "sysdtm": "2018-01-12 19:31:16", "cardcd": "2088802362210279", '
    rb'"txdtm": "2018-01-12 19:31:22", "resperr": "\u4ea4\u6613\u6210\u529f", "txcurrcd": "CNY", "txamt": "1", '
    rb'"respmsg": "", "out_trade_no": "130145934788787530052", "syssn": "20180112000100020001662134", '
    rb'"respcd": "0000"}'
)
V2_KEY = "615ED178BA524459976CE40FAB78000F"
V2_SIGNATURE = "1E2CE7C2A7F8F581C354A857182B7A31"
"""Published by QFPay (2018): MD5 of the raw body and V2_KEY."""

COMMAND = (sys.executable, "-W", "always::ResourceWarning", "-m", "qfpay_preauth")


def environment(**more: str) -> dict[str, str]:
    """What the process sees: where the package is, and nothing of the developer's own settings."""
    return {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ.get("PATH", ""), "PYTHONUTF8": "1", **more}


def run(
    *arguments: str, env: Mapping[str, str] | None = None, command: tuple[str, ...] = COMMAND
) -> subprocess.CompletedProcess[str]:
    """Run to the end, without a terminal."""
    return subprocess.run(
        [*command, *arguments],
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that an error is; no traceback, and nothing on the other stream."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr
