"""The results file: written through, never torn, and never at the cost of what was there."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from qfpay_preauth import BatchOutcome, BatchRow, Capture, OverCaptureError, RowOutcome, RowProblem
from qfpay_preauth._batch_files import FileRefusedError
from qfpay_preauth._batch_results import COLUMNS, ResultsFile
from qfpay_preauth._batch_rows import ended, failed, invalid
from tests.batch.kit import results_of


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """The file that is being run."""
    path = tmp_path / "rows.csv"
    path.write_text("idempotency_key,syssn,amount\n")
    return path


def _done(number: int, message: str = "Capture received") -> BatchOutcome:
    result = Capture(f"C{number}", "S1", 500, "HKD", f"k{number}", code="0000", message=message)
    return ended(BatchRow(f"k{number}", "S1", 500), number, result)


def _results(path: Path, rows: Path, format: str = "csv") -> ResultsFile:
    return ResultsFile(path, format, rows, lambda text: text)


def test_a_line_for_each_outcome(tmp_path: Path, rows: Path) -> None:
    """With the documented columns; what an unreadable row held is shown."""
    path = tmp_path / "results.csv"
    bad = {"idempotency_key": "k3", "syssn": "S 1", "amount": "12.50"}
    with _results(path, rows) as results:
        results.write(_done(1))
        results.write(failed(BatchRow("k2", "S1", 9), 2, OverCaptureError("Too much.", advice="Take less.")))
        results.write(invalid(3, [RowProblem("amount", "is no number")], bad))
        results.write(invalid(4, [RowProblem("row", "is not UTF-8")], None))
        results.sync()
    assert path.read_text().splitlines() == [
        "line,idempotency_key,operation,syssn,amount,outcome,result_syssn,code,message",
        "1,k1,capture,S1,500,executed,C1,0000,Capture received",
        "2,k2,capture,S1,9,refused,,OverCaptureError,Too much. Take less.",
        "3,k3,,S 1,12.50,invalid,,,amount: is no number",
        "4,,,,,invalid,,,row: is not UTF-8",
    ]


def test_json_lines(tmp_path: Path, rows: Path) -> None:
    """The same names; numbers are numbers, what is not there is null."""
    path = tmp_path / "results.jsonl"
    with _results(path, rows, "jsonl") as results:
        results.write(_done(1))
    (line,) = path.read_text().splitlines()
    found = json.loads(line)
    assert tuple(found) == COLUMNS
    assert (found["line"], found["amount"], found["outcome"], found["result_syssn"]) == (1, 500, "executed", "C1")


@pytest.mark.parametrize(
    "message",
    ["=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-1", "\t=1", "a\nb", "a\rb", "\x1b[2J", 'say "hi", you', "\udcff"],
)
def test_what_comes_from_outside_is_only_text(tmp_path: Path, rows: Path, message: str) -> None:
    """No formula, no line break, no terminal command, no torn encoding: one printable cell."""
    path = tmp_path / "results.csv"
    with _results(path, rows) as results:
        results.write(_done(1, message))
        results.write(_done(2))
    first, second = results_of(path)
    assert first["message"].isprintable()
    assert first["message"][0] not in "=+-@\t\r"
    assert second["idempotency_key"] == "k2"


# ------------------------------------------------------------------------------------------------ what is there already


def test_earlier_results_are_kept(tmp_path: Path, rows: Path) -> None:
    """Each run begins a new file, and no earlier one is lost, however often a run is killed."""
    path = tmp_path / "results.csv"
    for number in range(1, 4):
        with _results(path, rows) as results:
            assert results.kept == (None if number == 1 else tmp_path / f"results.csv.{number - 1}")
            results.write(_done(number))
    found = [results_of(tmp_path / name) for name in ("results.csv.1", "results.csv.2", "results.csv")]
    assert [[line["idempotency_key"] for line in lines] for lines in found] == [["k1"], ["k2"], ["k3"]]


@pytest.mark.parametrize(
    "content", ["", "line,idempotency_key,operation,syssn,amount,outcome,result_syssn,code,message\n"]
)
def test_results_without_a_line_are_not_kept(tmp_path: Path, rows: Path, content: str) -> None:
    """A run that was killed before its first row ended has nothing to keep."""
    path = tmp_path / "results.csv"
    path.write_text(content)
    with _results(path, rows) as results:
        assert results.kept is None
    assert sorted(each.name for each in tmp_path.iterdir()) == ["results.csv", "rows.csv"]


def test_earlier_json_lines_are_kept(tmp_path: Path, rows: Path) -> None:
    """They are known by their first object."""
    path = tmp_path / "results.jsonl"
    for number in (1, 2):
        with _results(path, rows, "jsonl") as results:
            results.write(_done(number))
    assert (tmp_path / "results.jsonl.1").exists()


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\x00", b"a,b\n1,2\n", b'{"line": 1}\n', b"idempotency_key,syssn,amount\n"]
)
def test_any_other_file_is_left_alone(tmp_path: Path, rows: Path, content: bytes) -> None:
    """A ledger, a list, a file of rows: what holds no results is refused and stays as it was."""
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(FileRefusedError, match="holds no results of a run"):
        _results(path, rows)
    assert path.read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["precious", "rows.csv"]


@pytest.mark.parametrize("earlier", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, rows: Path, earlier: bool) -> None:
    """Results go where it leads, and earlier ones are kept there: /dev/stdout, led into a file, is such a link."""
    (tmp_path / "there").mkdir()
    link, real = tmp_path / "results.csv", tmp_path / "there" / "real.csv"
    real.touch()
    link.symlink_to(real)
    if earlier:
        with _results(link, rows) as results:
            results.write(_done(1))
    with _results(link, rows) as results:
        results.write(_done(2))
    assert link.is_symlink()
    assert [line["idempotency_key"] for line in results_of(real)] == ["k2"]
    names = ["real.csv", "real.csv.1"] if earlier else ["real.csv"]
    assert sorted(each.name for each in real.parent.iterdir()) == names
    assert sorted(each.name for each in tmp_path.iterdir()) == ["results.csv", "rows.csv", "there"]


@pytest.mark.parametrize("link", ["same", "hard", "symbolic"])
def test_the_rows_themselves_are_no_place_for_results(tmp_path: Path, rows: Path, link: str) -> None:
    """Whatever name they are given."""
    path = tmp_path / "results.csv"
    if link == "hard":
        path.hardlink_to(rows)
    elif link == "symbolic":
        path.symlink_to(rows)
    before = rows.read_bytes()
    with pytest.raises(FileRefusedError, match="is the file with the rows itself"):
        _results(rows if link == "same" else path, rows)
    assert rows.read_bytes() == before


def test_a_second_run_does_not_write_to_the_same_file(tmp_path: Path, rows: Path) -> None:
    """While one writes, another is refused, and the first's lines stay where they belong."""
    path = tmp_path / "results.csv"
    with _results(path, rows) as results:
        with pytest.raises(FileRefusedError, match="Another run is writing"):
            _results(path, rows)
        results.write(_done(1))
    assert [line["idempotency_key"] for line in results_of(path)] == ["k1"]


@pytest.mark.parametrize("place", ["folder", "nowhere/results.csv", "rows.csv/results.csv", "dangling", "/dev/full"])
def test_where_nothing_can_be_written_is_refused(tmp_path: Path, rows: Path, place: str) -> None:
    """A folder, a missing folder, a dangling link, a full device: before anything is sent."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at-all")
    with pytest.raises(FileRefusedError, match="give another --results"):
        _results(tmp_path / place, rows)


# ------------------------------------------------------------------------------------------------ a full disk


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file of this process may be longer than 300 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, rows: Path, little_room: None) -> None:
    """The file ends with its last whole line, and whoever wrote hears of it."""
    path = tmp_path / "results.csv"
    with _results(path, rows) as results:
        for number in range(3):
            results.write(_done(number))
        with pytest.raises(OSError, match="File too large"):
            results.write(_done(3, "x" * 300))
        results.write(_done(4))  # a shorter one has room
    assert [line["idempotency_key"] for line in results_of(path)] == ["k0", "k1", "k2", "k4"]
    assert path.read_bytes().endswith(b"\n")


def test_earlier_results_come_back_where_no_new_file_can_be_begun(
    tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older file is not moved away for one that cannot be written."""
    path = tmp_path / "results.csv"
    with _results(path, rows) as results:
        results.write(_done(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(FileRefusedError, match="File too large"):
            _results(path, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [line["outcome"] for line in results_of(path)] == [RowOutcome.EXECUTED.value]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["results.csv", "rows.csv"]


def test_results_are_for_the_umask(tmp_path: Path, rows: Path) -> None:
    """Who may read them is the operator's choice."""
    before = os.umask(0o077)
    try:
        with _results(tmp_path / "results.csv", rows):
            assert (tmp_path / "results.csv").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
