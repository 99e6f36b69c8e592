"""At the keyboard: the question before money moves, and Ctrl-C, which loses no money out of sight."""

from __future__ import annotations

import json
import os
import signal

import pytest

from .kit import Shop
from .terminal import started, terminal, until

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


@pytest.fixture
def production(shop: Shop) -> Shop:
    """The shop in production."""
    shop.env |= {"QFPAY_ENVIRONMENT": "production", "QFPAY_LEDGER": "sqlite:///ledger.db?mode=rwc"}
    return shop


# ------------------------------------------------------------------------------------------------ the question


def test_production_asks_and_takes_yes(production: Shop) -> None:
    """The deed with its numbers as money, what is left, and the key; yes goes on."""
    syssn = production.hold()
    with terminal(production, "capture", syssn, "20000", "-k", "order-17/parcel-1") as screen:
        shown = screen.until("Type yes to go on: ")
        assert f"PRODUCTION: Capture HKD 200.00 of hold {syssn}, of which HKD 500.00 is left" in shown
        assert "(key order-17/parcel-1)" in shown
        assert production.sent("capture") == 0
        screen.type("yes")
        assert screen.end() == 0
        assert "Captured HKD 200.00" in screen.screen
    assert production.sent("capture") == 1


@pytest.mark.parametrize("answer", ["no", "", "yes please"])
def test_production_takes_anything_else_for_a_no(production: Shop, answer: str) -> None:
    """Exit code 1, nothing written, nothing sent."""
    syssn = production.hold()
    with terminal(production, "capture", syssn, "20000", "-k", "key") as screen:
        screen.until("Type yes to go on: ")
        screen.type(answer)
        assert screen.end() == 1
        assert "Called off: nothing was done." in screen.screen
    assert production.sent("capture") == 0
    assert production("events", "key").code == 1


def test_the_other_questions(production: Shop) -> None:
    """A refund names its capture, an unfreeze what it will release."""
    syssn = production.hold()
    capture = production("capture", syssn, "20000", "-k", "key", "--yes", "--json").objects[0]["syssn"]
    with terminal(production, "refund", capture, "500", "-k", "back") as screen:
        assert f"Refund HKD 5.00 of capture {capture} (key back)" in screen.until("Type yes")
        screen.type("no")
        assert screen.end() == 1
    with terminal(production, "unfreeze", syssn, "-k", "close") as screen:
        assert f"Unfreeze HKD 300.00 of hold {syssn}" in screen.until("Type yes")
        screen.type("no")
        assert screen.end() == 1
    with terminal(production, "refund", "20260101180500020000099999", "500", "-k", "back") as screen:
        assert screen.end() == 3
        assert "is not in the ledger" in screen.screen
    assert production.sent("refund") + production.sent("unfreeze") == 0


def test_production_without_a_terminal(production: Shop) -> None:
    """Nobody can be asked: exit code 2 without --yes, done with it."""
    syssn = production.hold()
    done = production.child("capture", syssn, "20000", "-k", "key")
    assert done.returncode == 2
    assert "Add --yes if this is meant" in done.stderr
    assert production.sent("capture") == 0
    assert production.child("capture", syssn, "20000", "-k", "key", "--yes").returncode == 0


def test_an_unregistered_hold_is_refused_before_the_question(production: Shop) -> None:
    """Exit code 3: there is nothing to ask about."""
    production.hold()
    with terminal(production, "capture", "20260101180500020000099999", "500", "-k", "key") as screen:
        assert screen.end() == 3
        assert "Type yes" not in screen.screen


def test_the_sandbox_does_not_ask(shop: Shop) -> None:
    """A person at a terminal goes straight on."""
    syssn = shop.hold()
    with terminal(shop, "capture", syssn, "20000", "-k", "key") as screen:
        assert screen.end() == 0
        assert "Type yes" not in screen.screen


def test_a_decision_is_asked_for_everywhere(shop: Shop) -> None:
    """`resolve` shows the entry and asks, also in the sandbox; then it records."""
    shop.lost(shop.hold())
    with terminal(shop, "resolve", "lost", "--not-executed", "--reason", "not in the portal") as screen:
        shown = screen.until("Type yes to go on: ")
        assert "lost: capture of HKD 50.00" in shown
        assert "NOT EXECUTED: no money moved, and the amount is free again" in shown
        screen.type("y")
        assert screen.end() == 0
        assert "Recorded: lost is not executed." in screen.screen


# ------------------------------------------------------------------------------------------------ Ctrl-C


def test_ctrl_c_at_the_question(production: Shop) -> None:
    """130, no traceback, nothing sent."""
    syssn = production.hold()
    with terminal(production, "capture", syssn, "20000", "-k", "key") as screen:
        screen.until("Type yes to go on: ")
        screen.interrupt()
        assert screen.end() == 130
        assert "Traceback" not in screen.screen
    assert production.sent("capture") == 0


def test_ctrl_c_while_it_is_executed(shop: Shop) -> None:
    """It waits for the answer of what was sent, then says that it was done: 130."""
    syssn = shop.hold()
    shop.fault("hang_after")
    with terminal(shop, "capture", syssn, "20000", "-k", "key") as screen:
        shop.wait(lambda gateway: gateway.wait_hanging())
        screen.interrupt()
        screen.until("Interrupted: waiting at most 30 s for what was sent (Ctrl-C again stops waiting).")
        shop.do(lambda gateway: gateway.release())
        assert screen.end() == 130
        assert "It was done all the same. Captured HKD 200.00" in screen.screen
        assert "Traceback" not in screen.screen
    assert shop("events", "key").code == 0


def test_ctrl_c_and_no_answer(shop: Shop) -> None:
    """The outcome is unknown: 130, how to look, and that the same command again is safe; and it is."""
    syssn = shop.hold()
    shop.fault("hang_after")
    shop.env["QFPAY_TIMEOUT_TOTAL_S"] = "2"
    with terminal(shop, "capture", syssn, "20000", "-k", "order 17") as screen:
        shop.wait(lambda gateway: gateway.wait_hanging())
        screen.interrupt()
        assert screen.end() == 130
        assert "The outcome is unknown" in screen.screen
        assert "Do not use another key. Run the same command again" in screen.screen
        assert "qfpay-preauth events 'order 17'" in screen.screen
    assert shop("capture", syssn, "20000", "-k", "order 17").code == 4
    assert shop.sent("capture") == 1


def test_ctrl_c_twice_stops_at_once(shop: Shop) -> None:
    """130 without waiting for the answer; the entry is in doubt, claimed, and never sent again."""
    syssn = shop.hold()
    shop.fault("hang_after")
    with terminal(shop, "capture", syssn, "20000", "-k", "key") as screen:
        shop.wait(lambda gateway: gateway.wait_hanging())
        screen.interrupt()
        screen.until("Ctrl-C again stops waiting")
        screen.interrupt()
        assert screen.end() == 130  # long before the 30 s of the answer
        assert "The outcome is unknown" in screen.screen
        assert "See: qfpay-preauth events key" in screen.screen
        assert "Traceback" not in screen.screen
    assert shop("capture", syssn, "20000", "-k", "key").code == 4
    assert shop.sent("capture") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_before_anything_was_sent(shop: Shop, number: signal.Signals) -> None:
    """Nothing moved, and it says so; for machines as one object. The same command again then runs it."""
    syssn = shop.hold()
    shop.wait(lambda gateway: gateway.refuse_connections())
    with started(shop, "capture", syssn, "20000", "-k", "key", "--json", QFPAY_BACKOFF_INITIAL_S="25") as process:
        # it could not connect, and waits to try again
        until(lambda: shop("events", "key").code == 4)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    shop.wait(lambda gateway: gateway.accept_connections())
    assert (process.returncode, out) == (130, "")
    found = json.loads(err.splitlines()[-1])
    assert (found["error"], found["outcome"], found["exit_code"]) == ("Interrupted", "nothing_happened", 130)
    assert found["idempotency_key"] == "key"
    shop.capture(syssn, 20_000, "key")
    assert shop.sent("capture") == 1


# ------------------------------------------------------------------------------------------------ the watch


def test_the_watch_on_a_terminal(shop: Shop) -> None:
    """A table that follows the ledger: a doubt comes, a person ends it, Ctrl-C ends the watch with 130."""
    syssn = shop.hold()
    with terminal(shop, "doubts", "--watch", "--every-s", "0.1") as screen:
        screen.until("0 in doubt. Ctrl-C ends the watch")
        shop.lost(syssn, 5_000, "the-lost-one")
        shown = screen.until("1 in doubt.")
        assert "the-lost-one" in shown
        assert "HKD 50.00" in shown
        screen.screen = ""
        assert shop("resolve", "the-lost-one", "--executed", "--reason", "r", "--yes").code == 0
        screen.until("0 in doubt.")
        screen.interrupt()
        assert screen.end() == 130
        assert "Traceback" not in screen.screen


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_watch_as_lines(shop: Shop, options: tuple[str, ...]) -> None:
    """Elsewhere a line (or an object) for each doubt that comes, and one when it has ended."""
    syssn = shop.hold()
    shop.lost(syssn, 5_000, "before")
    with started(shop, "doubts", "--watch", "--every-s", "0.1", *options) as process:
        assert process.stdout is not None
        lines = iter(process.stdout)
        first = next(line for line in lines if "before" in line)
        shop.lost(syssn, 6_000, "after")
        second = next(line for line in lines if "after" in line)
        assert shop("resolve", "before", "--not-executed", "--reason", "r", "--yes").code == 0
        third = next(line for line in lines if "before" in line)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""
    if options:
        found = [json.loads(line) for line in (first, second, third)]
        assert [each["event"] for each in found] == ["in_doubt", "in_doubt", "ended"]
        assert [each["idempotency_key"] for each in found] == ["before", "after", "before"]
        assert (found[2]["state"], found[2]["why"]) == ("not_executed", "operator")
    else:
        assert f"capture of HKD 60.00 on {syssn}  after" in second
        assert third == "before: not executed (operator)\n"
