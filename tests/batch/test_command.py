"""The command `run`: what it does, says, writes and ends with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qfpay_preauth import BatchRow, Operation
from qfpay_preauth.testing import Gateway
from tests.batch.kit import captures, checked_against, csv_of, executed, results_of
from tests.cli.kit import SECRET, Shop, environment
from tests.cli.terminal import until

RUN = ("run", "rows.csv", "--results", "results.csv")


def _rows(shop: Shop, count: int = 40, holds: int = 8) -> list[BatchRow]:
    def make(gateway: Gateway) -> list[BatchRow]:
        return captures(gateway, [gateway.hold(500_000) for _ in range(holds)], count)

    return shop.do(make)


def _file(shop: Shop, rows: list[BatchRow], *more: str) -> Path:
    path = csv_of(shop.folder / "rows.csv", rows)
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in more)
    return path


def _outcomes(shop: Shop, name: str = "results.csv") -> dict[str, str]:
    return {line["line"]: line["outcome"] for line in results_of(shop.folder / name)}


def _wrong(shop: Shop) -> list[str]:
    return shop.do(lambda gateway: checked_against(gateway, results_of(shop.folder / "results.csv")))


# ------------------------------------------------------------------------------------------------ its main job


def test_a_file_is_run(shop: Shop) -> None:
    """Every row to its outcome, in the results file, in the totals, in the exit code; and again: all replayed."""
    _file(shop, _rows(shop))
    done = shop(*RUN)
    assert (done.code, done.err) == (0, "")
    assert "40 of 40 rows in " in done.out
    assert "executed" in done.out
    assert "HKD 407.80" in done.out
    assert set(_outcomes(shop).values()) == {"executed"}
    assert _wrong(shop) == []
    again = shop(*RUN)
    assert again.code == 0
    assert "replayed" in again.out
    assert set(_outcomes(shop).values()) == {"replayed"}
    assert set(_outcomes(shop, "results.csv.1").values()) == {"executed"}
    assert shop.sent("capture") == 40
    assert _wrong(shop) == []


def test_what_did_not_go_well_is_exit_3(shop: Shop) -> None:
    """Invalid, refused and declined rows are in the results with line and reason; the others are executed."""
    rows = _rows(shop, 10)
    _file(shop, rows, "bad,S1,12.50,,,,,", "torn,S1", f"over,{rows[0].syssn},499999,,,,,")
    shop.fault("respcd", amount=1_004, code="1201")
    done = shop(*RUN)
    assert done.code == 3
    found = {line["line"]: line for line in results_of(shop.folder / "results.csv")}
    assert {line: found[line]["outcome"] for line in ("6", "12", "13", "14")} == {
        "6": "declined",
        "12": "invalid",
        "13": "invalid",
        "14": "refused",
    }
    assert (found["6"]["code"], found["14"]["code"]) == ("1201", "OverCaptureError")
    assert "amount: must be minor units" in found["12"]["message"]
    assert (found["12"]["idempotency_key"], found["12"]["amount"]) == ("bad", "12.50")
    assert list(_outcomes(shop).values()).count("executed") == 9
    assert _wrong(shop) == []


def test_doubts_that_are_left_are_exit_4(shop: Shop) -> None:
    """Whatever else there is: a lost answer wins over an invalid row."""
    _file(shop, _rows(shop, 5), "bad,S1,12.50,,,,,")
    shop.fault("drop_before")
    done = shop(*RUN)
    assert done.code == 4
    assert sorted(_outcomes(shop).values()) == ["executed"] * 4 + ["in_doubt", "invalid"]
    (line,) = [each for each in results_of(shop.folder / "results.csv") if each["outcome"] == "in_doubt"]
    assert "qfpay-preauth resolve" in line["message"]
    assert shop(*RUN).code == 4
    assert shop.sent("capture") == 5


def test_json_lines_in_and_out(shop: Shop) -> None:
    """A file of objects, results of objects, and objects on the screen."""
    rows = _rows(shop, 3)
    names = ("idempotency_key", "syssn", "amount", "currency", "out_trade_no", "authorized_amount")
    lines = [json.dumps({name: getattr(row, name) for name in names}) for row in rows]
    (shop.folder / "rows.jsonl").write_text("\n".join([*lines, "{}"]))
    done = shop("run", "rows.jsonl", "--results", "out.jsonl", "--json")
    assert done.code == 3
    (end,) = done.objects
    assert (end["event"], end["rows"], end["exit_code"], end["results"]) == ("end", 4, 3, "out.jsonl")
    assert (end["outcomes"]["executed"], end["outcomes"]["invalid"]) == (3, 1)
    assert end["amounts"] == [{"outcome": "executed", "operation": "capture", "currency": "HKD", "amount": 3_003}]
    found = [json.loads(line) for line in (shop.folder / "out.jsonl").read_text().splitlines()]
    assert sorted(each["outcome"] for each in found) == ["executed"] * 3 + ["invalid"]


def test_quiet_says_nothing(shop: Shop) -> None:
    """Nothing but errors; the results are in the file."""
    _file(shop, _rows(shop, 3))
    done = shop(*RUN, "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_captures_then_refunds(shop: Shop) -> None:
    """The results of one run are what the next one's rows are made of."""
    _file(shop, _rows(shop, 4))
    shop(*RUN)
    refunds = [
        BatchRow(f"back-{line['idempotency_key']}", line["result_syssn"], 100, Operation.REFUND)
        for line in results_of(shop.folder / "results.csv")
    ]
    _file(shop, refunds)
    assert shop(*RUN).code == 0
    kinds = shop.do(lambda gateway: sum(kind == "refund" for kind, _, _ in executed(gateway)))
    assert kinds == 4


def test_several_accounts(shop: Shop) -> None:
    """The column picks one of the profile's; --account is for rows that name none; an unknown one is invalid."""
    rows = _rows(shop, 3)
    account = '[accounts.{0}]\napp_code = "{1}"\nclient_key = "{2}"\naccount = "{0}"\n'
    accounts = "".join(account.format(name, shop.env["QFPAY_APP_CODE"], SECRET) for name in ("hk", "sg"))
    profile = shop.folder / "shop.toml"
    profile.write_text(f'ledger = "sqlite:///ledger.db"\nbase_url = "{shop.env["QFPAY_BASE_URL"]}"\n{accounts}')
    profile.chmod(0o600)
    _file(shop, rows)
    none = shop(*RUN, "--profile", "shop.toml")
    assert (none.code, shop.sent("capture")) == (2, 0)
    assert "3 rows name no account" in none.err
    line = f"x,{rows[0].syssn},5,,,,,"
    _file(shop, rows, f"{line}sg", f"{line}nobody")
    done = shop(*RUN, "--profile", "shop.toml", "--account", "hk")
    assert done.code == 3
    found = _outcomes(shop)
    # the hold belongs to the account that registered it
    assert (found["5"], found["6"]) == ("refused", "invalid")
    unknown = next(each for each in results_of(shop.folder / "results.csv") if each["line"] == "6")
    said = ("idempotency_key", "operation", "syssn", "amount")
    assert [unknown[name] for name in said] == ["x", "capture", rows[0].syssn, "5"]
    assert list(found.values()).count("executed") == 3


# ------------------------------------------------------------------------------------------------ refused before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "rows.csv"), "Give --results FILE"),
        (("run", "missing.csv", "--results", "r.csv"), "missing.csv cannot be read (No such file or directory)"),
        (("run", "rows.txt", "--results", "r.csv"), "Add --format csv or --format jsonl"),
        (("run", "rows.csv", "--results", "rows.csv"), "is the file with the rows itself"),
        (("run", "rows.csv", "--results", "ledger.db"), "holds no results of a run"),
        (("run", "rows.csv", "--results", "no/r.csv"), "Results cannot be written to no/r.csv"),
        (("run", "rows.csv", "--results", "/dev/full"), "Results cannot be written to /dev/full (No space left"),
        (("run", "columns.csv", "--results", "r.csv"), "there is no column 'sysn': did you mean syssn?"),
        (("run", "rows.csv", "--results", "r.csv", "--concurrency", "0"), "--concurrency"),
        (("run", "rows.csv", "--results", "r.csv", "--profile", "missing.toml"), "missing.toml"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_sent(shop: Shop, arguments: tuple[str, ...], says: str) -> None:
    """Exit code 2 and one line that says what to do; no request, no results, the files as they were."""
    rows = _file(shop, _rows(shop, 3))
    (shop.folder / "columns.csv").write_text("idempotency_key,sysn,amount\n")
    (shop.folder / "rows.txt").write_text("")
    shop.hold()  # makes the ledger
    before = {each.name: each.read_bytes() for each in (rows, shop.folder / "ledger.db")}
    done = shop(*arguments)
    assert done.code == 2, done
    assert says in done.err
    assert (done.out, done.err.count("\n")) == ("", 1)
    assert shop.sent() == 0
    assert not (shop.folder / "r.csv").exists()
    assert (shop.folder / "rows.csv").read_bytes() == before["rows.csv"]


def test_a_ledger_that_is_forgotten_is_refused(shop: Shop) -> None:
    """With memory:// the next run would do everything again."""
    _file(shop, _rows(shop, 3))
    shop.env["QFPAY_LEDGER"] = "memory://"
    assert shop(*RUN).code == 2
    assert shop.sent() == 0


def test_production_without_a_terminal_needs_yes(shop: Shop) -> None:
    """It says what it would do; with --yes it does it."""
    shop.env |= {"QFPAY_ENVIRONMENT": "production", "QFPAY_LEDGER": "sqlite:///ledger.db?mode=rwc"}
    _file(shop, _rows(shop, 3), "bad,S1,12.50,,,,,")
    done = shop.child(*RUN)
    assert (done.returncode, done.stdout) == (2, "")
    assert "PRODUCTION: Run 3 rows of rows.csv (capture HKD 30.03; 1 more cannot be read)" in done.stderr
    assert "--yes" in done.stderr
    assert shop.sent() == 0
    assert not (shop.folder / "results.csv").exists()
    assert shop.child(*RUN, "--yes").returncode == 3
    assert shop.sent("capture") == 3


def test_an_empty_batch_is_done(shop: Shop) -> None:
    """A day without captures is no error."""
    shop.hold()
    _file(shop, [])
    done = shop(*RUN)
    assert done.code == 0
    assert "0 of 0 rows" in done.out
    assert results_of(shop.folder / "results.csv") == []


# ------------------------------------------------------------------------------------------------ --dry-run


def test_a_rehearsal_sends_and_writes_nothing(shop: Shop) -> None:
    """Every refusal with line, column and reason; no request, no ledger, no results, and no credentials are needed."""
    rows = _rows(shop, 3)
    more = ["bad,S1,12.50,void,,,,", "torn", "k1,S9,1001,,,,,", f"k2,{rows[2].syssn},1002,,,,,", "u,S1,,unfreeze,,,,"]
    more += [f"r,{rows[0].syssn},5,,USD,O,500000,"]
    _file(shop, rows, *more)
    shop.env.clear()
    done = shop("run", "rows.csv", "--dry-run")
    assert done.code == 3
    *lines, total = done.out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "line 5, amount",
        "line 5, operation",
        "line 6, row",
        "line 7, idempotency_key",
        "line 10, authorized_amount",
    ]
    assert "already used on line 3" in lines[3]
    assert "line 2 registers the same hold" in lines[4]
    assert total == "9 rows: 5 can be sent, 4 refused. Nothing was sent."
    assert "the column account and the decimals of currencies are not checked" in done.err
    assert shop.sent() == 0
    assert [each.name for each in shop.folder.iterdir()] == ["rows.csv"]


def test_a_rehearsal_for_machines(shop: Shop) -> None:
    """An object for each refusal, and one for the end; accounts are checked where they are configured."""
    _file(shop, _rows(shop, 2), "x,S1,5,,,,,nobody")
    done = shop("run", "rows.csv", "--dry-run", "--json")
    assert done.code == 3
    refusal, end = done.objects
    assert (refusal["event"], refusal["line"], refusal["column"]) == ("refusal", 4, "account")
    assert end == {"event": "end", "rows": 3, "refused": 1, "sent": 0}


def test_a_rehearsal_knows_the_settings(shop: Shop) -> None:
    """A hold in a currency whose decimals nobody has stated is refused in the run too."""
    _file(shop, [], "y,S1,5,,JPY,O,10,")
    done = shop("run", "rows.csv", "--dry-run")
    assert (done.code, done.out.startswith("line 2, currency: JPY has no documented exponent")) == (3, True)
    shop.env["QFPAY_CURRENCY_EXPONENTS"] = '{"JPY": 0}'
    assert shop("run", "rows.csv", "--dry-run").code == 0
    shop.env.clear()
    done = shop("run", "rows.csv", "--dry-run")
    assert (done.code, "the column account and the decimals of currencies are not checked" in done.err) == (0, True)


def test_a_rehearsal_of_a_good_file(shop: Shop) -> None:
    """Exit code 0; quiet says nothing at all."""
    _file(shop, _rows(shop, 2))
    assert shop("run", "rows.csv", "--dry-run").out == "2 rows: 2 can be sent, 0 refused. Nothing was sent.\n"
    assert shop("run", "rows.csv", "--dry-run", "--quiet").out == ""


# ------------------------------------------------------------------------------------------------ stopped


def test_rejected_credentials_are_exit_1(shop: Shop) -> None:
    """It stops at once, says why and what to do; the secret is nowhere; mended and run again it goes on."""
    _file(shop, _rows(shop, 60))
    shop.fault("respcd", code="1108", after=20, times=None)
    done = shop(*RUN, "--concurrency", "2")
    assert done.code == 1
    assert "Stopped: " in done.err
    assert "1108" in done.err
    assert shop.sent("capture") <= 22
    assert _wrong(shop) == []
    shop.do(lambda gateway: gateway.faults.clear())
    assert shop(*RUN).code == 0
    assert _wrong(shop) == []
    assert len(_outcomes(shop)) == 60


LIMIT = 64 * 2**20
_LIMITED = (
    "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0})); "
    "sys.argv = sys.argv[1:]; runpy.run_module('qfpay_preauth', run_name='__main__', alter_sys=True)"
)


def _with_a_disk_that_fills(shop: Shop, *arguments: str) -> tuple[int, str]:
    """The command where no file may grow beyond a limit, and the results are brought close to it while it runs."""
    results = shop.folder / "results.csv"
    process = subprocess.Popen(
        [sys.executable, "-c", _LIMITED.format(LIMIT), "qfpay-preauth", *arguments],
        env=environment(**shop.env),
        cwd=shop.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        until(lambda: results.exists() and results.stat().st_size > 3_000)
        os.truncate(results, LIMIT - 2_000)  # a hole; what is appended comes behind it
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    results.write_bytes(results.read_bytes().replace(b"\0", b""))
    return process.returncode, said


@pytest.mark.parametrize("json_too", [False, True])
def test_a_full_disk_for_the_results_stops_the_run(shop: Shop, json_too: bool) -> None:
    """Sending stops at once; stderr names what was done and is in no line; run again, everything is in its place."""
    _file(shop, _rows(shop, 300, 60))
    shop.env |= {"QFPAY_REQUESTS_PER_SECOND": "200", "QFPAY_REQUESTS_PER_MINUTE": "10000"}
    code, said = _with_a_disk_that_fills(shop, *RUN, *(["--json"] if json_too else []))
    assert code == 1
    assert "Stopped: the results cannot be written to results.csv (File too large)" in said
    written = {line["line"] for line in results_of(shop.folder / "results.csv")}
    listed = {line.partition(",")[0] for line in said.splitlines() if ",executed," in line}
    if json_too:
        objects = [json.loads(line) for line in said.splitlines()]
        listed = {str(each["line"]) for each in objects if each.get("outcome") == "executed"}
        assert (objects[0]["error"], objects[0]["outcome"]) == ("OSError", "happened")
    assert written
    assert listed
    assert not written & listed
    assert len(written | listed) == shop.do(lambda gateway: executed(gateway).total()) < 300
    again = shop(*RUN)
    assert again.code == 0
    assert _wrong(shop) == []
    assert len(_outcomes(shop)) == 300
    assert shop.do(lambda gateway: max(executed(gateway).values())) == 1


@pytest.mark.parametrize(
    ("after", "lost", "says"), [(0, False, "nothing_happened"), (3, False, "happened"), (3, True, "unknown")]
)
def test_a_run_that_stopped_tells_machines_what_it_did(shop: Shop, after: int, lost: bool, says: str) -> None:
    """Rejected credentials move no money, but rows that ended before did: `outcome` is the run's, not the row's."""
    _file(shop, _rows(shop, 10))
    if lost:
        shop.fault("drop_after", amount=1_000, hidden=True)
    shop.fault("respcd", code="1108", after=after, times=None, operation="capture")
    done = shop(*RUN, "--json", "--concurrency", "1")
    assert done.code == 1
    error = json.loads(done.err)
    assert (error["error"], error["outcome"]) == ("CredentialsRejectedError", says)


def test_the_ledger_gone_in_the_middle_is_exit_1(shop: Shop) -> None:
    """What cannot be recorded is not sent."""
    _file(shop, _rows(shop, 10))
    assert shop(*RUN).code == 0
    (shop.folder / "ledger.db").write_bytes(b"not a ledger")
    done = shop(*RUN)
    assert done.code == 1
    assert shop.sent("capture") == 10


# ------------------------------------------------------------------------------------------------ help


def test_the_help_says_all_that_matters(shop: Shop) -> None:
    """Columns, the exit codes, Ctrl-C, and an example that works."""
    shown = " ".join(shop("run", "--help").out.split())
    for word in ("idempotency_key, syssn, amount", "130 interrupted", "Ctrl-C", "--dry-run", "authorized_amount"):
        assert word in shown, word
    assert "qfpay-preauth run captures.csv --results results.csv" in shown
