"""`capture`, `unfreeze`, `refund`: what they do, say and return, and what they never do."""

from __future__ import annotations

import pytest

from .kit import SECRET, Shop


def test_a_capture(shop: Shop) -> None:
    """Money as money, the ids, exit code 0; and the gateway's books agree."""
    syssn = shop.hold()
    done = shop("capture", syssn, "20000", "--idempotency-key", "order-17/parcel-1")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"Captured HKD 200.00 of hold {syssn}: capture ")
    assert "(order-17/parcel-1)" in done.out
    assert shop.do(lambda gateway: gateway.books.totals(syssn).captured) == 20_000


def test_the_same_key_replays(shop: Shop) -> None:
    """The same command again sends nothing, says so, and is a success."""
    syssn = shop.hold()
    first = shop.capture(syssn)
    again = shop("capture", syssn, "20000", "-k", "key")
    assert again.code == 0
    assert first in again.out
    assert "Replayed: it was done before, and nothing was sent." in again.out
    assert shop.sent("capture") == 1


def test_an_unfreeze_and_a_refund(shop: Shop) -> None:
    """Exactly what is left, and a part of a capture."""
    syssn = shop.hold()
    capture = shop.capture(syssn)
    refund = shop("refund", capture, "5000", "-k", "return")
    assert refund.out.startswith(f"Refunded HKD 50.00 of capture {capture}: refund ")
    unfreeze = shop("unfreeze", syssn, "-k", "close")
    assert unfreeze.out.startswith(f"Unfroze HKD 300.00, all that was left of hold {syssn}: unfreeze ")
    totals = shop.do(lambda gateway: gateway.books.totals(syssn))
    assert (totals.captured, totals.refunded, totals.unfrozen) == (20_000, 5_000, 30_000)


def test_a_stale_unfreeze_is_refused(shop: Shop) -> None:
    """An amount that is not what is left: exit code 3, nothing sent."""
    syssn = shop.hold()
    assert shop("unfreeze", syssn, "49999", "-k", "close").code == 3
    assert shop.sent("unfreeze") == 0


def test_json_results(shop: Shop) -> None:
    """One object a line, with the operation, times with their zone, and the gateway's own fields."""
    syssn = shop.hold()
    (found,) = shop("capture", syssn, "20000", "-k", "key", "--json").objects
    assert (found["operation"], found["amount"], found["currency"]) == ("capture", 20_000, "HKD")
    assert (found["orig_syssn"], found["replayed"], found["confirmed_by"]) == (syssn, False, "answer")
    assert found["system_time"][-6] in "+-"
    assert found["raw"]["respcd"] == "0000"


@pytest.mark.parametrize(
    "amount",
    [
        "12.50",
        "1e3",
        "0x10",
        "1_000",
        "-5",
        "+5",
        " 500 ",
        "\uff15\uff10\uff10",
        "",
        "many",
        "100000000000",
        "1" * 5000,
    ],
)
def test_an_amount_is_plain_minor_units_or_nothing(shop: Shop, amount: str) -> None:
    """Never rounded, never guessed: exit code 2, one line that shows how to write it, and nothing sent."""
    done = shop("capture", "SYSSN", amount, "-k", "key")
    assert (done.code, done.out) == (2, "")
    assert "whole number of minor units (20000 is HKD 200.00)" in done.err
    assert done.err.count("\n") == 1
    assert len(done.err) < 400
    assert shop.sent() == 0


def test_zero_is_refused_by_the_library(shop: Shop) -> None:
    """The range is the library's rule: exit code 2."""
    assert shop("capture", shop.hold(), "0", "-k", "key").code == 2


@pytest.mark.parametrize("command", ["capture", "unfreeze", "refund"])
def test_the_key_has_no_default(shop: Shop, command: str) -> None:
    """Exit code 2, naming the option; a following option is not taken for the key."""
    for more in ((), ("--idempotency-key",), ("--idempotency-key", "--yes"), ("-k", "--json")):
        done = shop(command, "SYSSN", "500", *more)
        assert done.code == 2
        assert "--idempotency-key requires" in done.err or "-k requires" in done.err, done.err


def test_refused_by_our_books(shop: Shop) -> None:
    """An over-capture: exit code 3, the numbers, what to do, nothing sent."""
    syssn = shop.hold()
    done = shop("capture", syssn, "50001", "-k", "key")
    assert done.code == 3
    assert "50000" in done.err
    assert "Capture at most what is capturable; nothing was sent." in done.err
    error = shop("capture", syssn, "50001", "-k", "key", "--json").error
    assert (error["error"], error["outcome"], error["exit_code"]) == ("OverCaptureError", "nothing_happened", 3)
    assert (error["requested"], error["capturable"], error["idempotency_key"]) == (50_001, 50_000, "key")
    assert shop.sent("capture") == 0


def test_an_unregistered_hold(shop: Shop) -> None:
    """The advice names the command, not the library's method."""
    shop.hold()
    done = shop("capture", "20260101180500020000099999", "500", "-k", "key")
    assert done.code == 3
    assert "`qfpay-preauth register`" in done.err
    assert "()" not in done.err


def test_declined_by_the_gateway(shop: Shop) -> None:
    """Exit code 3, the code, and that another try is another intent."""
    syssn = shop.hold()
    shop.fault("respcd", code="1201")
    done = shop("capture", syssn, "500", "-k", "key", "--json")
    assert done.code == 3
    assert (done.error["error"], done.error["code"]) == ("DeclinedError", "1201")
    assert done.error["retry_later"] is False


def test_not_sent(shop: Shop) -> None:
    """No gateway there: exit code 1, no money moved."""
    syssn = shop.hold()
    shop.wait(lambda gateway: gateway.refuse_connections())
    done = shop("capture", syssn, "500", "-k", "key", "--json")
    shop.wait(lambda gateway: gateway.accept_connections())
    assert done.code == 1
    assert (done.error["error"], done.error["outcome"]) == ("NotSentError", "nothing_happened")
    assert "run the same command again" in done.error["advice"].lower()


def test_wrong_credentials(shop: Shop) -> None:
    """Exit code 1: nothing moved, and the set-up has to be mended; the key is not shown."""
    syssn = shop.hold()
    shop.env["QFPAY_CLIENT_KEY"] = "ANOTHERSECRETKEY"
    done = shop("capture", syssn, "500", "-k", "key", "--json")
    assert (done.code, done.error["error"]) == (1, "CredentialsRejectedError")
    assert "ANOTHERSECRETKEY" not in done.err


def test_the_outcome_is_unknown(shop: Shop) -> None:
    """Exit code 4, never a new key, and where to look; the same command again sends nothing and says the same."""
    syssn = shop.hold()
    shop.fault("drop_after")
    for _ in range(2):
        done = shop("capture", syssn, "500", "-k", "order 17/parcel-1")
        assert done.code == 4
        assert "Do not use another key" in done.err
        assert "See: qfpay-preauth events 'order 17/parcel-1'" in done.err
    assert shop.sent("capture") == 1


def test_evidence_within_the_patience_is_a_success(shop: Shop) -> None:
    """`--patience-s` looks for it; the result says what confirmed it."""
    syssn = shop.hold()
    capture = shop.capture(syssn)
    shop.fault("drop_after", "refund")
    done = shop("refund", capture, "500", "-k", "return", "--patience-s", "20")
    assert done.code == 0
    assert "Confirmed by enquiry, not by its own answer." in done.out


def test_recorded_nowhere_is_not_a_failure(shop: Shop) -> None:
    """The ledger cannot be opened: exit code 1, and nothing is sent."""
    shop.hold()
    (shop.folder / "ledger.db").write_bytes(b"not a ledger")
    done = shop("capture", "SYSSN", "500", "-k", "key")
    assert done.code == 1
    assert "ledger.db" in done.err
    assert shop.sent() == 0


def test_the_ledger_must_be_there(shop: Shop) -> None:
    """A wrong path is an error, not a new empty ledger."""
    shop.env["QFPAY_LEDGER"] = "sqlite:///elsewhere.db"
    assert shop("capture", "SYSSN", "500", "-k", "key").code == 2
    assert not (shop.folder / "elsewhere.db").exists()


@pytest.mark.parametrize("command", [("capture", "S", "500", "-k", "k"), ("register", "S", "500", "HKD")])
def test_a_ledger_that_forgets_is_refused(shop: Shop, command: tuple[str, ...]) -> None:
    """memory:// would let the next command take the money again: exit code 2, nothing sent."""
    shop.env["QFPAY_LEDGER"] = "memory://"
    more = ["--out-trade-no", "O"] if command[0] == "register" else []
    done = shop(*command, *more)
    assert done.code == 2
    assert "memory://" in done.err
    assert shop.sent() == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9", "soon"])
def test_a_wrong_deadline_is_usage(shop: Shop, seconds: str) -> None:
    """Exit code 2, nothing written or sent."""
    syssn = shop.hold()
    assert shop("capture", syssn, "500", "-k", "key", f"--deadline-s={seconds}").code == 2
    assert shop("events", "key").code == 1
    assert shop.sent("capture") == 0


def test_a_small_amount_is_a_warning(shop: Shop) -> None:
    """The library's warnings are lines on stderr; objects with --json, so that every line there is one."""
    syssn = shop.hold()
    done = shop("capture", syssn, "200", "-k", "a")
    assert done.err.startswith("warning: capture of 200: QFPay advises amounts above 200")
    assert "risk control" in shop("capture", syssn, "199", "-k", "b", "--json").error["warning"]


def test_secrets_are_looked_for() -> None:
    """The kit's own search would find the key (every command of these tests is searched)."""
    with pytest.raises(AssertionError):
        assert SECRET not in f"a screen with {SECRET} on it"
