"""`doubts`, `events`, `resolve`, `reconcile`: what an operator does about what is not known."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest

from qfpay_preauth import Discrepancy, DiscrepancyKind, _cli_doubts
from qfpay_preauth._cli_session import Session
from qfpay_preauth._cli_watch import age
from qfpay_preauth._models import Movement, ReconcileReport

from .kit import Shop

DIFFERENCE = Discrepancy(DiscrepancyKind.MISSING_HERE, None, "S-1", None, "nothing", "capture of 500")


def test_doubts_are_listed(shop: Shop) -> None:
    """Age, operation, amount, id, what was tried and seen, what to do; exit code 4."""
    syssn = shop.hold()
    shop.lost(syssn, 5_000, "one")
    shop.lost(syssn, 6_000, "two")
    done = shop("doubts")
    assert done.code == 4
    assert f"capture of HKD 50.00 on {syssn}  one" in done.out
    assert "    tried  attempt 1, sent by " in done.out
    assert "    seen   ServerDisconnectedError" in done.out
    assert "`qfpay-preauth reconcile`" in done.out
    assert done.out.endswith("2 in doubt.\n")


def test_doubts_for_machines(shop: Shop) -> None:
    """An object for each, oldest first; none: no line, exit code 0."""
    syssn = shop.hold()
    assert (shop("doubts", "--json").out, shop("doubts").out) == ("", "Nothing is in doubt.\n")
    shop.lost(syssn, 5_000, "one")
    shop.lost(syssn, 6_000, "two")
    done = shop("doubts", "--json")
    assert done.code == 4
    assert [each["idempotency_key"] for each in done.objects] == ["one", "two"]
    first = done.objects[0]
    assert (first["operation"], first["amount"], first["syssn"], first["needs_attention"]) == (
        "capture",
        5_000,
        syssn,
        False,
    )
    assert {"age_s", "tried", "seen", "advice", "since", "account"} <= set(first)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59, "59s"), (60, "1m 0s"), (3_599, "59m 59s"), (7_500, "2h 5m"), (200_000, "2d 7h"), (-3, "0s")],
)
def test_an_age_in_its_two_largest_units(seconds: float, text: str) -> None:
    """Short enough for a column; a clock that went back is not a negative age."""
    assert age(seconds) == text


def test_the_history_of_one_entry(shop: Shop) -> None:
    """Its moves with their times and details; exit code 4 while it is not known, 0 once it is."""
    syssn = shop.hold()
    shop.lost(syssn, 5_000, "lost")
    done = shop("events", "lost")
    assert done.code == 4
    assert f"lost: capture of HKD 50.00 on {syssn}" in done.out
    assert "in doubt, attempt 1" in done.out
    assert "  new -> held" in done.out
    assert "  held -> in_doubt  ServerDisconnectedError" in done.out
    capture = shop.capture(syssn, 6_000, "fine")
    (found,) = shop("events", "fine", "--json").objects
    assert found["entry"]["result_syssn"] == capture
    assert [each["to_state"] for each in found["events"]] == ["held", "executed"]
    assert shop("events", "fine").code == 0


def test_a_key_that_nobody_used(shop: Shop) -> None:
    """Exit code 1: under it nothing was ever written or sent."""
    shop.hold()
    done = shop("events", "nope")
    assert (done.code, done.out) == (1, "")
    assert "nothing was ever written or sent" in done.err
    assert shop("resolve", "nope", "--executed", "--reason", "r", "--yes").code == 1


def test_a_person_decides(shop: Shop) -> None:
    """With --yes it is recorded; the amount counts as captured, and the capture can be refunded by its syssn."""
    syssn = shop.hold()
    shop.lost(syssn)
    (row,) = [row for row in shop("query", "--json").objects if row["orig_syssn"]]
    done = shop("resolve", "lost", "--executed", "--reason", "seen in the portal", "--syssn", row["syssn"], "--yes")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith("Recorded: lost is executed.\n")
    assert shop("doubts").code == 0
    assert shop("refund", row["syssn"], "1000", "-k", "return").code == 0


def test_it_did_not_happen(shop: Shop) -> None:
    """The amount is free again; the same decision again is fine, the other one is refused."""
    syssn = shop.hold()
    shop.fault("drop_before")
    assert shop("capture", syssn, "5000", "-k", "lost").code == 4
    decide = ("resolve", "lost", "--not-executed", "--reason", "not in the portal", "--yes")
    assert shop(*decide).code == 0
    (found,) = shop("balance", syssn, "--json").objects
    assert found["balance"]["capturable"] == 50_000
    (again,) = shop(*decide, "--json").objects
    assert (again["entry"]["state"], again["entry"]["why"]) == ("not_executed", "operator")
    assert shop("resolve", "lost", "--executed", "--reason", "oh", "--yes").code == 3


@pytest.mark.parametrize("flags", [(), ("--executed", "--not-executed")])
def test_a_decision_is_one_of_two(shop: Shop, flags: tuple[str, ...]) -> None:
    """Neither or both: exit code 2, nothing recorded."""
    shop.lost(shop.hold())
    assert shop("resolve", "lost", *flags, "--reason", "r", "--yes").code == 2
    assert shop("doubts").code == 4


def test_a_decision_needs_somebody_to_ask(shop: Shop) -> None:
    """Without a terminal and without --yes: exit code 2 in every environment, nothing recorded."""
    shop.lost(shop.hold())
    done = shop.child("resolve", "lost", "--executed", "--reason", "r")
    assert done.returncode == 2
    assert "Add --yes if this is meant" in done.stderr
    assert shop("doubts").code == 4


def test_a_decision_without_reason(shop: Shop) -> None:
    """A reason is demanded, and not a blank one."""
    shop.lost(shop.hold())
    assert shop("resolve", "lost", "--executed", "--yes").code == 2
    assert shop("resolve", "lost", "--executed", "--reason", " ", "--yes").code == 2


# ------------------------------------------------------------------------------------------------ reconcile


def test_reconcile_ends_doubts(shop: Shop) -> None:
    """Evidence ends it: exit code 0, what ended and how, and no money was sent."""
    syssn = shop.hold()
    capture = shop.capture(syssn)
    shop.fault("drop_after", "refund")
    assert shop("refund", capture, "5000", "-k", "return").code == 4
    sent = shop.sent("refund")
    done = shop("reconcile")
    assert (done.code, done.err) == (0, "")
    assert "1 doubts ended" in done.out
    assert "  return: HKD 50.00 executed" in done.out
    assert shop.sent("refund") == sent


def test_reconcile_with_doubts_left(shop: Shop) -> None:
    """Exit code 4, how many need a person."""
    shop.lost(shop.hold())
    done = shop("reconcile")
    assert done.code == 4
    assert "1 still in doubt, 1 of them need a person: `qfpay-preauth doubts` lists them." in done.out
    assert "ATTENTION " in shop("doubts").out


def test_reconcile_with_differences(shop: Shop) -> None:
    """Exit code 3, each difference with both sides; for machines one report."""
    syssn = shop.hold()
    shop.fault("drop_before")
    assert shop("capture", syssn, "5000", "-k", "wrong").code == 4
    assert shop("resolve", "wrong", "--executed", "--reason", "a mistake", "--syssn", "20260101X", "--yes").code == 0
    shop.do(lambda gateway: gateway.portal_unfreeze(syssn))
    done = shop("reconcile", "--json")
    assert done.code == 3
    (report,) = done.objects
    assert report["discrepancies"]
    assert report["in_doubt"] == 0
    assert {"kind", "ours", "theirs"} <= set(report["discrepancies"][0])


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({}, 0),
        ({"complete": False}, 1),
        ({"complete": False, "discrepancies": (DIFFERENCE,)}, 3),
        ({"discrepancies": (DIFFERENCE,), "in_doubt": 1}, 4),
    ],
)
def test_the_exit_code_of_a_report(given: dict[str, Any], code: int) -> None:
    """What is worst counts: doubts, then differences, then a gateway that could not be read as a whole."""
    report = attrs.evolve(ReconcileReport((), (), (), 0, 0, 0, 0, complete=True), **given)
    assert _cli_doubts.code_of_report(report) == code


def test_a_report_in_words() -> None:
    """Differences with both sides, what was made elsewhere, and that absence proves nothing where a part is missing."""
    movement = Movement("A", "M-1", "capture", "H-1", 500)
    report = ReconcileReport((), (DIFFERENCE,), (movement,), 3, 2, 1, 4, complete=False)
    words = "\n".join(
        _cli_doubts.report_lines(cast(Session, SimpleNamespace(clients={"hk": 1, "sg": 2})), "hk", report)
    )
    for each in (
        "Account hk:",
        "3 executed operations confirmed, 0 doubts ended.",
        "made elsewhere: capture of 500 (minor units) on H-1 (M-1)",
        "DIFFERENCE missing_here S-1: ours nothing; the gateway's capture of 500",
        "4 notifications fit nothing",
        "2 still in doubt, 1 of them need a person",
        "could not be read as a whole: absence proves nothing",
    ):
        assert each in words


def test_reconcile_without_a_gateway(shop: Shop) -> None:
    """Exit code 1: run it again."""
    shop.lost(shop.hold())
    shop.wait(lambda gateway: gateway.refuse_connections())
    done = shop("reconcile", "--json")
    shop.wait(lambda gateway: gateway.accept_connections())
    assert (done.code, done.error["error"]) == (1, "NotSentError")


def test_watching_needs_a_sane_pace(shop: Shop) -> None:
    """Exit code 2."""
    shop.hold()
    for pace in ("0", "-1", "nan", "1e9"):
        assert shop("doubts", "--watch", f"--every-s={pace}").code == 2


def test_the_json_of_a_key_with_odd_characters(shop: Shop) -> None:
    """Any printable key comes back as it was, and is shown as it can be."""
    syssn = shop.hold()
    key = "order \u8a02\u55ae [red]'\"\\"
    shop.capture(syssn, 5_000, key)
    done = shop("events", key, "--json")
    assert json.loads(done.out)["entry"]["idempotency_key"] == key
    assert f"{key}: capture" in shop("events", key).out
