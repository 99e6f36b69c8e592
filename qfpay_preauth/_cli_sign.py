"""`sign` and `verify`: the way out of a wrong signature. The key is never taken from the command line, nor shown."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from qfpay_preauth import _explain
from qfpay_preauth._cli_screen import EXIT_NO, EXIT_OK, UsageError, emit_json, plain, shown
from qfpay_preauth._cli_session import Json
from qfpay_preauth._signing import Signer

KEY_VARIABLE = "QFPAY_CLIENT_KEY"

SignType = Literal["SHA256", "MD5"]
Params = Annotated[str, Parameter(help="Parameters as name=value, not percent-encoded, exactly as they are sent.")]
KeyEnv = Annotated[str, Parameter(help="The NAME of the environment variable that holds the client key.")]


def sign(*params: Params, sign_type: SignType = "SHA256", key_env: KeyEnv = KEY_VARIABLE, json: Json = False) -> int:
    """Show how a request is signed: the signing string with the key masked, and the signature.

    The key comes from an environment variable or a hidden prompt, never from the command line.

    Example: `qfpay-preauth sign txamt=100 txcurrcd=HKD mchid=ZaMVg12345`

    Args:
        sign_type: The hash, as X-QF-SIGNTYPE names it.
    """
    pairs = _pairs(params)
    key = _key(key_env)
    if key != key.strip():
        raise UsageError("The key has blanks around it: set it exactly as QFPay gave it.")
    fields = dict(pairs)
    found = {
        "signing string": _explain.masked(fields, key),
        "algorithm": sign_type,
        "signature": Signer(key, sign_type).sign(fields),
        "headers": "X-QF-APPCODE, X-QF-SIGN" + (", X-QF-SIGNTYPE: SHA256" if sign_type == "SHA256" else ""),
    }
    empty = ", ".join(name for name, value in pairs if not value)
    if empty:
        found["note"] = f"{empty}: empty. This library never sends an empty parameter; leave it out."
    if json:
        emit_json({name.replace(" ", "_"): text for name, text in found.items()})
        return EXIT_OK
    for name, text in found.items():
        _line(name, text)
    return EXIT_OK


def verify(
    signature: Annotated[str, Parameter(help="The signature as sent in X-QF-SIGN; lower-case hex is fine.")],
    /,
    *params: Params,
    sign_type: SignType | None = None,
    body: Path | None = None,
    key_env: KeyEnv = KEY_VARIABLE,
    json: Json = False,
) -> int:
    """Say whether a signature fits, and if not, which mistake made it: the way out of code 1108.

    The key comes from an environment variable or a hidden prompt, never from the command line.

    Example: `qfpay-preauth verify 99D9F717...BB3D74E8 txamt=100 txcurrcd=HKD mchid=ZaMVg12345`

    Args:
        sign_type: What X-QF-SIGNTYPE said; by default judged by the signature's length.
        body: File with a notification's raw body, verified instead of parameters.
    """
    if body is not None:
        if params or sign_type:
            raise UsageError("A body is signed as a whole, with MD5: leave parameters and --sign-type out.")
        return _tell(_explain.explain_body(_read(body), _key(key_env), signature), json=json)
    pairs = _pairs(params)
    key = _key(key_env)
    finding = _explain.explain(pairs, key, _text(signature), sign_type)
    return _tell(finding, json=json, signing_string=_explain.masked(dict(pairs), key.strip()))


def _tell(finding: _explain.Finding, *, json: bool, signing_string: str = "") -> int:
    if json:
        emit_json({**plain(finding), **({"signing_string": signing_string} if signing_string else {})})
        return EXIT_OK if finding.matches else EXIT_NO
    print(shown(finding.summary))
    for note in finding.notes:
        _line("note", note)
    if finding.matches:
        return EXIT_OK
    for fix in finding.fixes:
        _line("to do", fix)
    for where in finding.check_next:
        _line("check next", where)
    _line("on the wire", "QFPay answers a request that is signed wrongly with code 1108.")
    _line("this key gives", finding.expected)
    if signing_string:
        _line("signing string", signing_string)
    return EXIT_NO


def _line(name: str, text: str) -> None:
    print(f"{name:<17}{shown(text)}")


def _pairs(params: Sequence[str]) -> list[tuple[str, str]]:
    if not params:
        raise UsageError("No parameters: give each as name=value, for example txamt=100.")
    pairs = []
    for number, each in enumerate(params, 1):
        name, equals, value = _text(each).partition("=")
        if not name or not equals:
            # not shown: somebody may have typed the key
            raise UsageError(f"Parameter {number} is not name=value, for example txamt=100.")
        pairs.append((name, value))
    twice = sorted({name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1})
    if twice:
        raise UsageError(f"Given twice: {', '.join(twice)}. A name may be sent only once.")
    return pairs


def _text(argument: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        raise UsageError("An argument is not UTF-8: QFPay signs and sends UTF-8 only.") from error
    return argument


def _key(variable: str) -> str:
    key = os.environ.get(variable, "")
    if not key.strip() and sys.stdin.isatty():
        try:
            key = getpass.getpass("Client key (hidden): ")
        except EOFError:
            key = ""
    if not key.strip():
        # a wrong name is not repeated: somebody may have typed the key itself
        named = variable if variable == KEY_VARIABLE else "the variable that --key-env names"
        raise UsageError(f"No client key: set {named}. The key is never taken from the command line.")
    return _text(key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read {path} ({error.strerror}): give --body a file with the raw body.") from error
