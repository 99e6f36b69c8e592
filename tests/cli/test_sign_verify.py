"""`sign` and `verify` as they are run, and that the key is never seen."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
from pathlib import Path

import pytest

from tests.vectors import V1_KEY as KEY
from tests.vectors import V1_PARAMS, V1_SIGNATURE, V2_BODY, V2_KEY, V2_SIGNATURE

from .kit import COMMAND, environment, here, one_line, run

V1 = [f"{name}={value}" for name, value in V1_PARAMS.items()]
HAS_KEY = {"QFPAY_CLIENT_KEY": KEY}
EXAMPLE = ("txamt=100", "txcurrcd=HKD", "mchid=ZaMVg12345")


def test_sign_shows_string_algorithm_and_signature() -> None:
    """The signing string is sorted with the key masked; the signature is upper-case hex."""
    done = run("sign", *EXAMPLE, env={"QFPAY_CLIENT_KEY": "abcd1234"})
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0].endswith("mchid=ZaMVg12345&txamt=100&txcurrcd=HKD<key, 8 characters>")
    assert lines[1].split() == ["algorithm", "SHA256"]
    assert lines[2].split() == ["signature", "99D9F7174823928B74C74B1C7A7E1538DF733774DD21C9606A202CB8BB3D74E8"]
    assert "X-QF-SIGNTYPE: SHA256" in lines[3]


def test_sign_takes_the_key_of_another_variable_and_warns_of_empty_values() -> None:
    """`--key-env` names the variable; V1's empty parameter is signed and remarked on."""
    done = here("sign", *V1, "--sign-type", "MD5", "--key-env", "OTHER", env={"OTHER": KEY})
    assert done.code == 0
    assert V1_SIGNATURE.upper() in done.out
    assert "channel_type: empty" in done.out
    assert KEY not in done.out + done.err


def test_verify_accepts_the_golden_vectors(tmp_path: Path) -> None:
    """V1 by its parameters as given, V2 by its body's bytes: exit code 0."""
    request = here("verify", V1_SIGNATURE, *V1, env=HAS_KEY)
    assert (request.code, request.out.splitlines()[0]) == (0, "It matches: MD5.")
    body = tmp_path / "notification"
    body.write_bytes(V2_BODY)
    notice = here("verify", V2_SIGNATURE, "--body", str(body), env={"QFPAY_CLIENT_KEY": V2_KEY})
    assert (notice.code, notice.out.startswith("It matches")) == (0, True)


def test_verify_names_the_mistake_and_code_1108() -> None:
    """Exit code 1, the mistake, what to do, the right signature; the key stays hidden."""
    done = here("verify", V1_SIGNATURE, *V1, "--sign-type", "SHA256", env=HAS_KEY)
    assert done.code == 1
    assert "It is an MD5 signature although X-QF-SIGNTYPE says SHA256." in done.out
    assert "code 1108" in done.out
    assert "<key, 32 characters>" in done.out
    assert KEY not in done.out + done.err


def test_verify_without_an_explanation_says_what_to_check() -> None:
    """Exit code 1 and where to look next."""
    done = here("verify", "0" * 32, *V1, env=HAS_KEY)
    assert done.code == 1
    assert "check next" in done.out
    assert "environment" in done.out


def test_control_characters_are_shown_escaped() -> None:
    """A value cannot colour the terminal or move its cursor."""
    done = here("sign", "name=\x1b[31mred\n", env=HAS_KEY)
    assert done.code == 0
    assert "\x1b" not in done.out
    assert r"\x1b[31mred\n<key" in done.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("sign",), "No parameters"),
        (("sign", "txamt=1", KEY), "Parameter 2 is not name=value"),
        (("sign", "a=1", "a=2"), "Given twice: a"),
        (("sign", "a=1", "--sign-type", "SHA1"), "SHA256"),
        (("sign", "a=1", "--key-env", "NOT_SET"), "--key-env"),
        (("sign", "a=1", "--key-env", KEY), "--key-env"),
        (("verify",), "SIGNATURE"),
        (("verify", "0" * 32), "No parameters"),
        (("verify", "0" * 32, "--body", "/nowhere/at/all"), "Cannot read"),
        (("verify", "0" * 32, "a=1", "--body", "/nowhere/at/all"), "leave parameters"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    """Exit code 2, no traceback, and a secret typed in the wrong place is not repeated."""
    done = here(*arguments, env=HAS_KEY)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err
    assert KEY not in done.err


def test_a_missing_or_padded_key_is_one_line() -> None:
    """Without a terminal nothing is asked; a key with blanks around it is not signed with."""
    missing = run("sign", "a=1")
    assert (missing.returncode, "set QFPAY_CLIENT_KEY" in one_line(missing)) == (2, True)
    padded = here("sign", "a=1", env={"QFPAY_CLIENT_KEY": f"{KEY} "})
    assert (padded.code, padded.out, padded.err.count("\n"), "blanks" in padded.err) == (2, "", 1, True)


def test_the_key_can_be_typed_unseen() -> None:
    """On a terminal it is asked for, and the terminal does not echo it."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "sign", *EXAMPLE],
        env=environment(),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    assert process.stderr is not None
    asked = b""
    while b"hidden" not in asked and (more := process.stderr.read(1)):
        asked += more  # the echo is off before it asks
    os.write(ours, b"abcd1234\n")
    shown, errors = process.communicate()
    watchdog.cancel()
    os.set_blocking(ours, False)
    with contextlib.suppress(BlockingIOError):
        asked += os.read(ours, 1_000)
    os.close(ours)
    os.close(theirs)
    assert process.returncode == 0
    assert b"99D9F7174823928B" in shown
    assert b"abcd1234" not in asked + shown + errors
