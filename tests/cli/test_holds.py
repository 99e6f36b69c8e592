"""`intent`, `register`, `import`, `balance`, `expiring`, `query`."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from .kit import Shop

UNKNOWN = "20260101180500020000099999"


def test_an_intent(shop: Shop) -> None:
    """The intent, its expiry with a zone, and what it is for; it makes no ledger."""
    wish = ("intent", "50000", "HKD", "--out-trade-no", "ORDER-18", "--pay-type", "802801")
    done = shop(*wish)
    assert done.code == 0
    assert "HKD 500.00, ORDER-18" in done.out
    (found,) = shop(*wish[:-3], "ORDER-19", *wish[-2:], "--json").objects
    assert len(found["payment_intent"]) == 32
    assert found["intent_expiry"].endswith("+08:00")
    assert not (shop.folder / "ledger.db").exists()


def test_an_intent_with_urls_that_cannot_be_signed(shop: Shop) -> None:
    """Exit code 2, with the way out."""
    wish = ("intent", "500", "HKD", "--out-trade-no", "O", "--pay-type", "802801")
    done = shop(*wish, "--return-url", "https://shop.example/?a=b&c=d")
    assert done.code == 2
    assert "into the path" in done.err


def test_register_twice(shop: Shop) -> None:
    """The same again changes nothing; something else is refused."""
    syssn = shop.hold()
    same = ("register", syssn, "50000", "HKD", "--out-trade-no", "ORDER-17")
    assert shop(*same).code == 0
    other = shop("register", syssn, "60000", "HKD", "--out-trade-no", "ORDER-17")
    assert other.code == 3
    (found,) = shop(*same, "--json").objects
    assert (found["authorization"]["amount"], found["balance"]["capturable"]) == (50_000, 50_000)


def test_register_with_its_time_and_window(shop: Shop) -> None:
    """A time with its zone and a length of time; the window then shows in `expiring`."""
    at = datetime.now(UTC) - timedelta(days=20)
    window = ("--authorized-at", at.isoformat(), "--capture-window", "21d")
    assert shop("register", "20260101180500020000000001", "500", "HKD", "--out-trade-no", "O", *window).code == 0
    (found,) = shop("expiring", "--json").objects
    assert datetime.fromisoformat(found["expires_at"]) == at + timedelta(days=21)
    assert (found["capturable"], found["account"]) == (500, "SIMULATED_APP_CODE")
    assert "HKD 5.00 left of HKD 5.00" in shop("expiring", "--within", "26h").out
    assert "No hold" in shop("expiring", "--within", "90m").out


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--authorized-at", "2026-11-22T18:00:00", "with its zone"),
        ("--authorized-at", "yesterday", "with its zone"),
        ("--capture-window", "7", "90m, 36h or 2d"),
        ("--capture-window", "1w", "90m, 36h or 2d"),
        ("--capture-window", "9999999d", "90m, 36h or 2d"),
        ("--capture-window", "999999d", "366 days"),
    ],
)
def test_times_are_never_guessed(shop: Shop, option: str, value: str, says: str) -> None:
    """A naive time or a bare number is usage: exit code 2."""
    done = shop("register", UNKNOWN, "500", "HKD", "--out-trade-no", "O", option, value)
    assert done.code == 2
    assert says in done.err


def test_a_currency_that_qfpay_lacks(shop: Shop) -> None:
    """Exit code 2, naming those that it has; JPY says how to state its decimals here."""
    assert "HKD" in shop("register", UNKNOWN, "500", "XXX", "--out-trade-no", "O").err
    done = shop("register", UNKNOWN, "500", "JPY", "--out-trade-no", "O")
    assert done.code == 2
    assert "Settings(" not in done.err
    assert "currency_exponents" in done.err


def test_import_with_what_was_done(shop: Shop) -> None:
    """A hold with a capture made elsewhere, by its id or its number."""
    syssn = shop.hold(registered=False)
    shop.do(lambda gateway: gateway.portal_capture(syssn, 20_000))
    done = shop("import", "--syssn", syssn)
    assert done.code == 0
    assert done.out.startswith(f"Imported: hold {syssn} of HKD 500.00, ORDER-17.")
    (found,) = shop("import", "--out-trade-no", "ORDER-17", "--json").objects
    assert found["balance"]["foreign"] + found["balance"]["captured"] == 20_000
    assert found["balance"]["capturable"] == 30_000


def test_import_of_what_the_gateway_does_not_show(shop: Shop) -> None:
    """Exit code 3; and neither or both ids are usage."""
    assert shop("import", "--syssn", UNKNOWN).code == 3
    assert shop("import").code == 2
    assert shop("import", "--syssn", UNKNOWN, "--out-trade-no", "O").code == 2


def test_a_balance(shop: Shop) -> None:
    """Sums as money, what is claimed and what is left; the object has minor units."""
    syssn = shop.hold()
    shop.capture(syssn)
    shop.lost(syssn)
    out = shop("balance", syssn).out
    for line in ("authorized            HKD 500.00", "captured              HKD 200.00", "HKD 250.00  what is left"):
        assert line in out
    assert "claimed: the outcome is not known" in out
    (found,) = shop("balance", syssn, "--json").objects
    assert found["balance"]["in_doubt"] == 5_000
    assert shop("balance", UNKNOWN).code == 3


def test_query_streams_rows(shop: Shop) -> None:
    """A line, or an object, for each row; ids and numbers narrow it."""
    syssn = shop.hold()
    capture = shop.capture(syssn)
    shop.hold(700, number="ORDER-18")
    lines = shop("query").out.splitlines()
    assert len(lines) == 3
    assert any("HKD 200.00" in line and capture in line and f"of {syssn}" in line for line in lines)
    (row,) = shop("query", capture, "--json").objects
    assert (row["syssn"], row["orig_syssn"], row["amount"]) == (capture, syssn, 20_000)
    (row,) = shop("query", "--out-trade-no", "ORDER-18", "--json").objects
    assert row["amount"] == 700


def test_an_empty_query_proves_nothing(shop: Shop) -> None:
    """It says so to people; for machines it is simply empty."""
    done = shop("query", UNKNOWN)
    assert (done.code, "proves nothing" in done.out) == (0, True)
    assert shop("query", UNKNOWN, "--json").out == ""


def test_query_of_a_backward_span(shop: Shop) -> None:
    """Exit code 2, nothing sent."""
    span = ("--start", "2026-01-02T00:00:00+08:00", "--end", "2026-01-01T00:00:00+08:00")
    assert shop("query", *span).code == 2
    assert shop.sent() == 0


def test_a_hostile_gateway_does_not_steer_the_terminal(shop: Shop) -> None:
    """Control characters of the gateway's are escaped; JSON is ASCII."""
    shop.hold(registered=False)
    shop.fault("altered", "query", rows=True, changes={"errmsg": "\x1b[2J\u202eow", "respcd": "1201"}, times=None)
    out = shop("query").out
    assert "1201" in out
    assert all(each.isprintable() or each == "\n" for each in out)
    text = shop("query", "--json").out
    assert text.isascii()
    assert json.loads(text)["code"] == "1201"


def test_enquiries_use_the_shared_ledger_where_it_is(shop: Shop) -> None:
    """A query with a ledger of another environment is refused, not made around it."""
    shop.hold()
    shop.env["QFPAY_ENVIRONMENT"] = "live_test"
    assert shop("query").code == 2
