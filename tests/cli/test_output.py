"""Where the output goes wrong: full disks, readers that leave, closed streams, other locales; errors as JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qfpay_preauth.testing import Config

from .kit import COMMAND, SECRET, Shop, environment, open_shop

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no device that is always full here")


def child(shop: Shop, *arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    """A command of the shop as another process, with streams of the test's choice."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [*COMMAND, *arguments],
        env=environment(**shop.env),
        cwd=shop.folder,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        timeout=60,
        check=False,
        **{"stderr": subprocess.PIPE, **how},
    )


@needs_full
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_capture_that_cannot_be_printed_is_not_a_failure(shop: Shop, options: tuple[str, ...]) -> None:
    """stdout on a full disk: exit code 4, stderr says that it was done; again, it replays."""
    syssn = shop.hold()
    with FULL.open("w") as full:
        done = child(shop, "capture", syssn, "20000", "-k", "key", *options, stdout=full)
    assert done.returncode == 4
    assert "It was done and recorded, but it could not be printed (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    again = shop("capture", syssn, "20000", "-k", "key", "--json")
    assert (again.code, again.objects[0]["replayed"], shop.sent("capture")) == (0, True, 1)


@needs_full
def test_a_listing_that_cannot_be_printed_is_one_line(shop: Shop) -> None:
    """Exit code 1, no traceback at exit."""
    syssn = shop.hold()
    for command in (("balance", syssn), ("balance", syssn, "--json"), ("query",), ("doctor",), ("sign", "a=1")):
        with FULL.open("w") as full:
            done = child(shop, *command, stdout=full)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "No space left on device" in done.stderr


def test_a_reader_that_left_before_the_result(shop: Shop) -> None:
    """A closed pipe after the money moved: exit code 4, not "failed"."""
    syssn = shop.hold()
    reading, writing = os.pipe()
    os.close(reading)
    done = child(shop, "capture", syssn, "20000", "-k", "key", stdout=writing)
    os.close(writing)
    assert done.returncode == 4
    assert "It was done and recorded" in done.stderr
    assert shop.sent("capture") == 1


@needs_full
def test_a_full_stderr_changes_no_exit_code(shop: Shop) -> None:
    """The error cannot be said; the code still tells."""
    syssn = shop.hold()
    with FULL.open("w") as full:
        done = child(shop, "capture", syssn, "50001", "-k", "key", stdout=subprocess.PIPE, stderr=full)
    assert (done.returncode, done.stdout) == (3, "")


@pytest.mark.skipif(os.name != "posix", reason="uses a POSIX shell")
def test_closed_streams_change_no_exit_code(shop: Shop) -> None:
    """Neither stdin nor stdout nor stderr is needed to capture."""
    syssn = shop.hold()
    command = " ".join([*COMMAND, "capture", syssn, "20000", "-k", "key"])
    done = subprocess.run(
        ["/bin/sh", "-c", f"{command} <&- >&- 2>&-"],
        env=environment(**shop.env),
        cwd=shop.folder,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert shop.sent("capture") == 1


def test_a_locale_without_these_letters(shop: Shop) -> None:
    """An ASCII terminal gets escapes, not a traceback after the money moved."""
    syssn = shop.hold()
    done = shop.child("capture", syssn, "20000", "-k", "訂單", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u8a02" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error", "code"),
    [
        (("capture", "S", "1.5", "-k", "k", "--json"), "UsageError", 2),
        (("frobnicate", "--json"), "UsageError", 2),
        (("balance", "--json"), "UsageError", 2),
        (("balance", "S", "--json", "--profile", "nobody"), "ConfigurationError", 2),
        (("balance", "S", "--json", "--account", "nobody"), "UsageError", 2),
        (("balance", "S", "--json"), "UnknownAuthorizationError", 3),
        (("balance", "S,T", "--json"), "InvalidRequestError", 2),
        (("events", "nope", "--json"), "FailedError", 1),
        (("verify", "00", "nonsense", "--json"), "UsageError", 2),
    ],
)
def test_errors_as_objects(shop: Shop, arguments: tuple[str, ...], error: str, code: int) -> None:
    """With --json every error, of usage too, is one object on stderr, and stdout stays empty."""
    shop.hold()
    done = shop(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
    assert (done.error["error"], done.error["exit_code"], done.error["outcome"]) == (error, code, "nothing_happened")


def test_a_wrong_account_is_named_with_the_right_ones(shop: Shop) -> None:
    """Exit code 2, before anything is opened."""
    shop.hold()
    assert "SIMULATED_APP_CODE" in shop("doubts", "--account", "SIMULATED_APP_COD").err


# ------------------------------------------------------------------------------------------------ several accounts


TWO = """
base_url = "{url}"
ledger = "sqlite:///two.db"
client_key_env = "KEY"
app_code = "SIMULATED_APP_CODE"
{more}
[accounts.hk]
account = "M1"
[accounts.sg]
account = "M2"
[settings]
patience_s = 0
"""


def test_several_accounts_in_one_ledger(shop: Shop) -> None:
    """What moves money names its account; listings show all, or the one that is asked for."""
    (shop.folder / "qfpay-preauth.toml").write_text(
        "\n".join(
            line.replace("[accounts", "[profiles.both.accounts").replace("[settings", "[profiles.both.settings")
            for line in ("[profiles.both]" + TWO.format(url=shop.do(lambda gateway: gateway.url), more="")).splitlines()
        )
    )
    shop.env = {"KEY": SECRET}
    both = ("--profile", "both")
    holds = {name: shop.hold(registered=False, number=f"ORDER-{name}") for name in ("hk", "sg")}
    for name, syssn in holds.items():
        wish = ("register", syssn, "50000", "HKD", "--out-trade-no", f"ORDER-{name}", *both)
        assert shop(*wish).code == 2
        assert "give --account (hk, sg)" in shop(*wish).err
        assert shop(*wish, "--account", name).code == 0
        shop.fault("drop_after")
        assert shop("capture", syssn, "5000", "-k", "the same key", *both, "--account", name).code == 4
    assert [each["account"] for each in shop("doubts", "--json", *both).objects] == ["hk", "sg"]
    assert "(account sg)" in shop("doubts", *both).out
    assert [each["account"] for each in shop("doubts", "--json", *both, "--account", "sg").objects] == ["sg"]
    assert [each["account"] for each in shop("reconcile", "--json", *both).objects] == ["hk", "sg"]
    assert [each["account"] for each in shop("expiring", "--within", "9d", "--json", *both).objects] == ["hk", "sg"]
    assert shop("balance", holds["hk"], *both, "--account", "sg").code == 3
    checks = shop("doctor", "--json", *both).objects
    assert {"credentials of hk", "credentials of sg", "doubts of hk"} <= {each["check"] for each in checks}
    assert len(shop("doctor", "--json", *both, "--account", "hk").objects) < len(checks)


# ------------------------------------------------------------------------------------------------ never a secret


Work = Callable[[Shop, str], None]


def test_no_command_and_no_error_shows_the_key(tmp_path: Path) -> None:
    """Every command, fine and failing in every way, in words and as JSON: the key is nowhere, nor in the ledger."""
    with open_shop(tmp_path, Config(mchid="M1", sign_answers=True)) as shop:
        syssn = shop.hold()
        capture = shop.capture(syssn)
        shop.lost(syssn)
        commands = [
            ("capture", syssn, "500", "-k", "new"),
            ("capture", syssn, "99999", "-k", "over"),
            ("capture", syssn, "5000", "-k", "lost"),
            ("refund", capture, "500", "-k", "back"),
            ("unfreeze", syssn, "-k", "close"),
            ("register", syssn, "1", "HKD", "--out-trade-no", "O"),
            ("import", "--syssn", syssn),
            ("intent", "500", "HKD", "--out-trade-no", "O-2", "--pay-type", "802801"),
            ("balance", syssn),
            ("expiring", "--within", "9d"),
            ("query",),
            ("doubts",),
            ("events", "lost"),
            ("resolve", "lost", "--executed", "--reason", "r"),
            ("reconcile",),
            ("doctor",),
            ("sign", "a=1"),
            ("verify", "0" * 64, "a=1"),
            ("verify", "0" * 64, f"a={SECRET[:8]}"),
            ("demo", "--captures", "4"),
        ]
        faults: list[Callable[[], None]] = [
            lambda: None,
            lambda: shop.fault("missigned", None, times=None),
            lambda: shop.fault("respcd", None, code="1108", times=None),
            lambda: shop.fault("garbled", None, text=f"<p>{SECRET[::-1]}</p>", times=None),
            lambda: shop.fault("status_before", None, status=500, times=None),
        ]
        for order in faults:
            order()
            for command in commands:
                for more in ((), ("--json",)):
                    shop(*command, *more)  # the shop searches what it says
            shop.do(lambda gateway: gateway.faults.clear())
        for wrong in ({"QFPAY_SIGN_TYPE": SECRET[:5]}, {"QFPAY_CLIENT_KEY": f"{SECRET} "}, {"QFPAY_ENVIRONMENT": "x"}):
            shop.env |= wrong
            for command in commands[:2] + commands[-6:]:
                shop(*command)
        assert len(shop.heard) > 200
        assert SECRET.encode() not in b"".join(path.read_bytes() for path in shop.folder.iterdir())


def test_a_key_typed_as_an_option_is_not_repeated(shop: Shop) -> None:
    """Somebody who gives the key on the command line is told that there is no such option, without the key."""
    shop.hold()
    done = shop("capture", "S", "500", "-k", "k", "--client-key", SECRET)
    assert done.code == 2
    assert json.dumps(done.err).count("client-key") == 1
