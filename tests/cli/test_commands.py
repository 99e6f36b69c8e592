"""The command line as a whole: help, version, the missing extra, interruption, and the simulator."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from unittest import mock

import pytest

from .kit import COMMAND, environment, here, one_line, run

COMMANDS = (
    *("demo", "simulate", "sign", "verify", "doctor"),
    *("capture", "unfreeze", "refund", "run"),
    *("intent", "register", "import", "balance", "expiring"),
    *("query", "reconcile", "doubts", "events", "resolve"),
)

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
from qfpay_preauth.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("name", ["cyclopts", "rich"])
def test_without_the_extra_one_line_says_how_to_get_it(name: str) -> None:
    """Exit code 2 and the install command, no traceback."""
    done = run("demo", command=(sys.executable, "-c", BLOCKED.format(name=name)))
    assert done.returncode == 2
    assert "python -m pip install 'qfpay_preauth[cli]'" in one_line(done)


def test_ctrl_c_while_it_is_being_loaded() -> None:
    """Exit code 130 and no traceback, however early it comes."""
    raised = 'raise ModuleNotFoundError(f"No module named {name!r}", name=name)'
    blocked = BLOCKED.format(name="rich")
    assert raised in blocked
    done = run("demo", command=(sys.executable, "-c", blocked.replace(raised, "raise KeyboardInterrupt")))
    assert (done.returncode, done.stdout + done.stderr) == (130, "")


def test_another_missing_module_is_not_blamed_on_the_extra() -> None:
    """A broken installation shows itself."""
    done = run("sign", "a=1", command=(sys.executable, "-c", BLOCKED.format(name="attrs")))
    assert done.returncode == 1
    assert "No module named 'attrs'" in done.stderr


def test_help_lists_the_commands_and_the_exit_codes() -> None:
    """Of the whole, with no command at all too."""
    for arguments in (("--help",), ()):
        done = here(*arguments)
        assert (done.code, done.err) == (0, "")
        assert all(command in done.out for command in COMMANDS)
        assert all(f" {code}: " in done.out for code in (0, 1, 2, 3, 4, 130))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command: str) -> None:
    """`--help` shows one line that can be copied, and every command speaks JSON."""
    done = here(command, "--help")
    assert done.code == 0
    assert "--json" in done.out
    assert f"Example: qfpay-preauth {command}" in " ".join(done.out.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("frobnicate",), "Available commands"),
        (("demo", "--captures", "0"), "Must be >= 1"),
        (("demo", "--captures", "many"), "--captures"),
        (("demo", "--fault-rate", "1.5"), "Must be <= 1"),
        (("demo", "--nonsense"), "--nonsense"),
        (("simulate", "--port", "99999"), "65535"),
    ],
)
def test_wrong_usage_is_one_line_with_the_way_to_help(arguments: tuple[str, ...], says: str) -> None:
    """Exit code 2."""
    done = here(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert says in done.err
    assert "--help" in done.err


def test_version() -> None:
    """`--version` is one line."""
    done = run("--version")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)


def test_version_where_it_is_not_installed() -> None:
    """`--version` says so, in one line, and does not fail."""
    with mock.patch.object(metadata, "version", side_effect=metadata.PackageNotFoundError):
        done = here("--version")
    assert (done.code, done.out, done.err) == (0, "not installed: run from its source\n", "")


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (("demo", "--captures", "8"), 0, {"ok", "lines", "doubts", "checks"}),
        (("sign", "a=1"), 0, {"signing_string", "algorithm", "signature", "headers"}),
        (("verify", "0" * 64, "a=1"), 1, {"matches", "summary", "expected", "fixes", "signing_string"}),
    ],
)
def test_the_trial_commands_as_json(arguments: tuple[str, ...], code: int, names: set[str]) -> None:
    """One object with all that the words say."""
    done = here(*arguments, "--json", env={"QFPAY_CLIENT_KEY": "MADE_UP"})
    assert (done.code, done.err, done.out.count("\n")) == (code, "", 1)
    assert names <= set(json.loads(done.out))


# ------------------------------------------------------------------------------------------------ simulate


@contextmanager
def simulator(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str], list[str]]]:
    """A running `simulate`: the process, what it named, and the calls it printed."""
    process = subprocess.Popen(
        [*COMMAND, "simulate", "--port", "0", *options],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        named: dict[str, str] = {}
        calls: list[str] = []
        for line in process.stdout:
            if line.startswith("curl"):
                calls.append(line.strip())
            elif line[:1].islower():
                name, _, value = line.strip().partition(" ")
                named[name] = value.strip()
            if line.rstrip().endswith("/_sim/settle"):
                break
        yield process, named, calls
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def test_simulate_serves_until_interrupted() -> None:
    """It names its url and credentials and the calls to copy, answers them, and Ctrl-C ends it with 130, silently."""
    with simulator("--app-code", "APP", "--client-key", "MADE_UP", "--mchid", "M1") as (process, named, calls):
        assert (named["app_code"], named["client_key"], named["mchid"]) == ("APP", "MADE_UP", "M1")
        assert len(calls) == 7
        body = b"amount=500&currency=HKD&out_trade_no=ORDER_1"
        with urllib.request.urlopen(f"{named['url']}/_sim/hold", data=body, timeout=10) as answer:
            assert json.load(answer)["out_trade_no"] == "ORDER_1"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "")


def test_a_taken_port_is_one_line() -> None:
    """Exit code 2, and which option to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("simulate", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "give another --port" in done.stderr
    assert done.stderr.count("\n") == 1


def test_simulate_as_json() -> None:
    """One object with where it is and its made-up credentials; then it serves."""
    process = subprocess.Popen(
        [*COMMAND, "simulate", "--port", "0", "--json"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        assert process.stdout is not None
        named = json.loads(process.stdout.readline())
        assert (named["app_code"], named["mchid"]) == ("SIMULATED_APP_CODE", None)
        with urllib.request.urlopen(f"{named['url']}/_sim/books", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    finally:
        process.kill()
        process.communicate()
