"""Ctrl-C, signals, terminals, and several runs at one time: always from outside."""

from __future__ import annotations

import io
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import evolve

from qfpay_preauth import BatchRow, Settings
from qfpay_preauth._batch_files import Scan
from qfpay_preauth._cli_run_view import Bar, Lines, tally_of, view_of
from qfpay_preauth.testing import Gateway
from tests.batch.kit import captures, checked_against, csv_of, executed, results_of
from tests.cli.kit import Shop
from tests.cli.terminal import started, terminal, until

RUN = ("run", "rows.csv", "--results", "results.csv")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals and a pseudo-terminal")


def _file(shop: Shop, count: int, holds: int = 8) -> list[BatchRow]:
    def make(gateway: Gateway) -> list[BatchRow]:
        return captures(gateway, [gateway.hold(500_000) for _ in range(holds)], count)

    rows = shop.do(make)
    csv_of(shop.folder / "rows.csv", rows)
    return rows


def _results(shop: Shop, name: str = "results.csv") -> dict[str, str]:
    return {line["idempotency_key"]: line["outcome"] for line in results_of(shop.folder / name)}


def _wrong(shop: Shop, name: str = "results.csv") -> list[str]:
    return shop.do(lambda gateway: checked_against(gateway, results_of(shop.folder / name)))


def _done(shop: Shop) -> int:
    return shop.do(lambda gateway: executed(gateway).total())


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_first_signal_drains(shop: Shop, which: signal.Signals) -> None:
    """Nothing more is sent; the row whose answer is awaited gets it, into the results; exit code 130."""
    _file(shop, 60)
    shop.fault("hang_after", after=20)
    slow = {"QFPAY_REQUESTS_PER_SECOND": "30", "QFPAY_REQUESTS_PER_MINUTE": "1500"}
    with started(shop, *RUN, "--concurrency", "4", **slow) as process:
        shop.wait(lambda gateway: gateway.wait_hanging())
        process.send_signal(which)
        assert process.stderr is not None
        assert "Stopping: nothing more is sent" in process.stderr.readline()
        sent = shop.sent("capture")
        shop.do(lambda gateway: gateway.release())
        assert process.wait(20) == 130
        assert process.stdout is not None
        assert "executed" in process.stdout.read()
    assert shop.sent("capture") <= sent + 4 < 40
    found = _results(shop)
    assert list(found.values()).count("executed") == _done(shop) == shop.sent("capture")
    assert set(found.values()) <= {"executed", "not_sent"}
    assert _wrong(shop) == []
    assert shop(*RUN).code == 0
    assert sorted(_results(shop)) == sorted(f"k{number}" for number in range(60))
    assert _wrong(shop) == []


def test_a_second_ctrl_c_stops_hard(shop: Shop) -> None:
    """At once; what was sent is in doubt for the next run, which does not send it again."""
    _file(shop, 10)
    shop.fault("hang_after", amount=1_005)
    # a run that is killed leaves its entries held for so long
    quick = {"QFPAY_DEADLINE_S": "1", "QFPAY_TIMEOUT_TOTAL_S": "1"}
    with started(shop, *RUN, "--concurrency", "2", **quick) as process:
        until(lambda: shop.sent("capture") == 10 and len(_results(shop)) == 9)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert "Stopping" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 130
        assert "Stopped hard" in process.stderr.read()
    shop.do(lambda gateway: gateway.release())
    assert len(_results(shop)) == 9
    shop.env |= quick
    assert shop(*RUN).code == 4
    assert _results(shop)["k5"] == "in_doubt"
    assert shop.sent("capture") == 10
    assert _wrong(shop) == []


def test_ctrl_c_while_the_budget_is_waited_for(shop: Shop) -> None:
    """The run does not wait for the minute: what was not sent is called off."""
    _file(shop, 40)
    with started(shop, *RUN, QFPAY_REQUESTS_PER_SECOND="5", QFPAY_REQUESTS_PER_MINUTE="6") as process:
        until(lambda: shop.sent("capture") == 6)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert shop.sent("capture") == _done(shop) == 6
    assert _wrong(shop) == []


def test_a_terminal_shows_a_bar(shop: Shop) -> None:
    """Rows, rate, time left, outcomes and money while it runs; the totals at its end; no trace of the bar."""
    _file(shop, 60)
    shop.env |= {"QFPAY_REQUESTS_PER_SECOND": "40", "QFPAY_REQUESTS_PER_MINUTE": "2000"}
    with terminal(shop, *RUN) as screen:
        assert "/60 rows" in screen.until(" left")
        assert screen.end() == 0
        shown = screen.screen
    assert "60 of 60 rows in" in shown
    assert "captures HKD" in shown
    assert "Traceback" not in shown
    assert shown.rindex("60 of 60 rows") > shown.rindex("/60 rows")


@pytest.mark.parametrize(("term", "view"), [("xterm", Bar), ("dumb", Lines)])
def test_a_terminal_that_moves_no_cursor_gets_lines(monkeypatch: pytest.MonkeyPatch, term: str, view: type) -> None:
    """On such a one a bar would show nothing at all until the end."""
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", terminal_stream := io.StringIO())
    monkeypatch.setattr(terminal_stream, "isatty", lambda: True)
    tally = tally_of(Scan(), None, Settings())
    assert type(view_of(tally, json=False, quiet=False)) is view


def test_ctrl_c_on_a_terminal(shop: Shop) -> None:
    """The bar makes room for the words, and the cursor comes back, also after the second."""
    _file(shop, 20)
    shop.fault("hang_after", after=5, times=None)
    with terminal(shop, *RUN) as screen:
        shop.wait(lambda gateway: gateway.wait_hanging())
        screen.until("/20 rows")
        screen.interrupt()
        screen.until("Ctrl-C again stops at once")
        screen.interrupt()
        screen.until("Stopped hard")
        assert screen.end() == 130
        assert screen.screen.rindex("\x1b[?25h") > screen.screen.rindex("\x1b[?25l")
    shop.do(lambda gateway: gateway.release())


def test_production_asks_on_a_terminal(shop: Shop) -> None:
    """With the number of rows and the money; no is exit code 1 and nothing sent, yes goes on."""
    shop.env |= {"QFPAY_ENVIRONMENT": "production", "QFPAY_LEDGER": "sqlite:///ledger.db?mode=rwc"}
    _file(shop, 5)
    for answer, code, sent in (("no", 1, 0), ("yes", 0, 5)):
        with terminal(shop, *RUN) as screen:
            assert "PRODUCTION: Run 5 rows of rows.csv (capture HKD 50.10)?" in screen.until("Type yes to go on: ")
            screen.type(answer)
            assert screen.end() == code
        assert shop.sent("capture") == sent
        assert (shop.folder / "results.csv").exists() is (answer == "yes")


def test_two_runs_of_one_file_at_one_time(shop: Shop) -> None:
    """On one ledger: nothing is done twice, each run's results are whole, and both agree with the gateway's books."""
    _file(shop, 120, 20)
    shop.hold()  # makes the ledger
    shop.fault("delay", times=None, seconds=0.01)
    other = (*RUN[:-1], "other.csv")
    with started(shop, *RUN) as one, started(shop, *other) as two:
        said = [process.communicate(timeout=60) for process in (one, two)]
        assert [one.returncode, two.returncode] == [0, 0], said
    assert shop.sent("capture") == 120
    for name in ("results.csv", "other.csv"):
        found = _results(shop, name)
        assert len(found) == 120
        assert set(found.values()) <= {"executed", "replayed"}
        assert _wrong(shop, name) == []
    both = [_results(shop, "results.csv"), _results(shop, "other.csv")]
    assert sum(list(found.values()).count("executed") for found in both) == 120


def test_rows_taken_out_of_the_file_while_it_runs(shop: Shop) -> None:
    """What is no longer there is not run, and the exit code says that it did not come to its end."""
    _file(shop, 300)
    shop.fault("hang_after", amount=1_000)
    with started(shop, *RUN, "--concurrency", "1") as process:
        shop.wait(lambda gateway: gateway.wait_hanging())
        (shop.folder / "rows.csv").write_text("")
        shop.do(lambda gateway: gateway.release())
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "It did not come to its end" in out
    assert "was changed while it ran" in err
    assert 1 <= _done(shop) == shop.sent("capture") < 300
    assert _wrong(shop) == []


def test_two_runs_do_not_share_a_results_file(shop: Shop) -> None:
    """The second is refused before anything is sent, and the first goes on undisturbed."""
    _file(shop, 10)
    shop.fault("hang_after", amount=1_009)
    with started(shop, *RUN) as first:
        shop.wait(lambda gateway: gateway.wait_hanging())
        second = shop(*RUN)
        assert (second.code, "Another run is writing to results.csv" in second.err) == (2, True)
        shop.do(lambda gateway: gateway.release())
        assert first.wait(20) == 0
    assert len(_results(shop)) == 10


@pytest.mark.parametrize("more", ["--json", ""])
@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_who_does_not_listen_does_not_stop_it(shop: Shop, closed: str, more: str) -> None:
    """Closed streams, full ones, a reader that left: the rows are run, and the results are in their file."""
    _file(shop, 10)
    command = {"stdout": ">/dev/full", "stderr": "2>&-", "both": ">&- 2>&-"}[closed]
    done = _shell(shop, f"run rows.csv --results results.csv {more} {command}")
    assert (done.returncode, done.stderr) == (0, ""), done
    assert set(_results(shop).values()) == {"executed"}
    assert _shell(shop, f"run rows.csv --dry-run {more} 2>&1 >&-").returncode == 0


def test_a_reader_that_left(shop: Shop) -> None:
    """`… --json | head -0`: the run goes on to its end."""
    _file(shop, 10)
    assert _shell(shop, "run rows.csv --results results.csv --json | true").returncode == 0
    until(lambda: _done(shop) == 10)
    until(lambda: len(_results(shop)) == 10)


def _shell(shop: Shop, line: str) -> subprocess.CompletedProcess[str]:
    from tests.cli.kit import COMMAND, environment

    return subprocess.run(
        ["/bin/sh", "-c", f"{' '.join(COMMAND)} {line}"],
        env=environment(**shop.env),
        cwd=shop.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def test_lines_where_there_is_no_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Progress as plain lines on stderr, or as objects on stdout; the totals on stdout."""
    from qfpay_preauth import _cli_run

    monkeypatch.setattr(_cli_run, "EVERY_S", 0.02)
    checks: list[tuple[tuple[str, ...], Callable[[str, str], bool]]] = [
        ((), lambda out, err: "of 30 rows, " in err and "30 of 30 rows in" in out),
        (("--json",), lambda out, err: '"event": "progress"' in out and '"eta_s"' in out and err == ""),
        (("--json", "--quiet"), lambda out, err: out.count("\n") == 1 and err == ""),
        (("--quiet",), lambda out, err: out + err == ""),
    ]
    shop.env |= {"QFPAY_REQUESTS_PER_SECOND": "60", "QFPAY_REQUESTS_PER_MINUTE": "3000"}
    for number, (more, as_it_should) in enumerate(checks):
        fresh = [evolve(row, idempotency_key=f"{number}-{row.idempotency_key}") for row in _file(shop, 30)]
        csv_of(shop.folder / "rows.csv", fresh)
        done = shop(*RUN, *more)
        assert done.code == 0
        assert as_it_should(done.out, done.err), done


def test_the_folder_holds_only_what_it_should(shop: Shop) -> None:
    """A run leaves its results, and no temporary file."""
    _file(shop, 5)
    shop(*RUN)
    names = {path.name for path in Path(shop.folder).iterdir()}
    assert names <= {"rows.csv", "results.csv", "ledger.db", "ledger.db-wal", "ledger.db-shm"}
