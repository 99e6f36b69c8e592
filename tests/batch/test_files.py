"""Files of rows: what is read, which line is malformed, and which file is refused as a whole."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qfpay_preauth import BatchOutcome, BatchRow
from qfpay_preauth._batch_files import LINE_MAX, FileRefusedError, RowFile, format_of

HEADER = b"idempotency_key,syssn,amount\n"
Found = list[tuple[int | None, str]]


def _read(path: Path, content: bytes, format: str = "csv") -> list[BatchRow | BatchOutcome]:
    path.write_bytes(content)
    with RowFile(path, format) as file:
        scan, rows = file.scan(), list(file.rows())
    assert scan.rows == len(rows)
    assert scan.invalid == sum(isinstance(row, BatchOutcome) for row in rows)
    return rows


def _found(rows: list[BatchRow | BatchOutcome]) -> Found:
    """(line, key), or (line, the columns that are wrong)."""
    return [
        (row.line, row.idempotency_key)
        if isinstance(row, BatchRow)
        else (row.line, "!" + ",".join(each.column for each in row.problems))
        for row in rows
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's file stands."""
    return tmp_path / "rows.csv"


# ------------------------------------------------------------------------------------------------ CSV


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (HEADER + b"a,S1,500\nb,S2,600\n", [(2, "a"), (3, "b")]),
        (HEADER + b"a,S1,500\nb,S2,600", [(2, "a"), (3, "b")]),
        (b"\xef\xbb\xbf" + HEADER + b"a,S1,500\n", [(2, "a")]),
        (b'\xef\xbb\xbf"idempotency_key","syssn","amount"\r\n"a","S1","500"\r\n', [(2, "a")]),
        (HEADER.replace(b"\n", b"\r\n") + b"a,S1,500\r\n\r\nb,S2,600\r\n", [(2, "a"), (4, "b")]),
        (b"\n\n" + HEADER + b"\n\na,S1,500\n,,\n\n", [(6, "a")]),
        (b"amount,idempotency_key,syssn\n500,a,S1\n", [(2, "a")]),
        (HEADER, []),
        (HEADER + b'"o""k",S1,500\n', [(2, 'o"k')]),
        (HEADER + b'"a,b",S1,500\n', [(2, "a,b")]),
        (HEADER + "clé-✓-键,S1,500\n".encode(), [(2, "clé-✓-键")]),
    ],
    ids=range(11),
)
def test_csv_as_programs_write_it(path: Path, content: bytes, found: Found) -> None:
    """With and without BOM, CRLF, quotes, empty lines, a last line end; columns in any order."""
    assert _found(_read(path, content)) == found


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b"x,S1\n", "row"),
        (b"x,S1,500,more\n", "row"),
        (b"x;S1;500\n", "row"),
        (b"x,S1,12.50\n", "amount"),
        (b"x, S1,500\n", "syssn"),
        (b"\xff\xfe,S1,500\n", "idempotency_key"),
        (b"x,S1,5\x00\n", "amount"),
        (b"x\x00y,S1,5\n", "idempotency_key"),
        (b"x\x1b[2J,S1,500\n", "idempotency_key"),
        (b"=HYPERLINK(1),S1,500\n", "idempotency_key"),
        (b"@x,S1,500\n", "idempotency_key"),
        (b"+x,S1,500\n", "idempotency_key"),
        (b"-x,-S1,500\n", "idempotency_key,syssn"),
        (b'"x" ,S1,500\n', "row"),
        (b'"x"y,S1,500\n', "row"),
        (b"x,S1,500\ry,S2,600\n", "row"),
        (b"x" * (LINE_MAX + 1) + b",S1,500\n", "row"),
        (b"x" * (3 * LINE_MAX) + b",S1,500\n", "row"),
        (b",S1,500\n", "idempotency_key"),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_malformed_line_is_passed_over(path: Path, line: bytes, wrong: str) -> None:
    """It is reported with its line and column; the lines around it are read as if it were not there."""
    rows = _read(path, HEADER + b"a,S1,500\n" + line + b"b,S2,600\n")
    assert _found(rows) == [(2, "a"), (3, f"!{wrong}"), (4, "b")]


def test_a_line_break_in_quotes_is_one_row(path: Path) -> None:
    """The record is invalid as a whole: no part of it is taken for a row of its own."""
    rows = _read(path, HEADER + b'a,S1,500\n"x\ny,S9,900",S1,700\nb,S2,600\n')
    assert _found(rows) == [(2, "a"), (3, "!idempotency_key"), (5, "b")]


def test_rows_inside_a_stray_quote_are_not_sent(path: Path) -> None:
    """Where a quote swallowed lines up to the next quote, none of them is a row."""
    rows = _read(path, HEADER + b'"a,S1,500\nb,S2,600\n"c",S3,700\nd,S4,800\n')
    assert _found(rows) == [(2, "!row"), (5, "d")]
    assert isinstance(rows[0], BatchOutcome)
    assert "lines 2 to 4" in rows[0].message


def test_a_hundred_megabytes_in_one_line(path: Path) -> None:
    """Are passed over without being held in memory."""
    with path.open("wb") as file:
        file.write(HEADER + b"a,S1,500\n")
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(b"\nb,S2,600\n")
    tracemalloc.start()
    with RowFile(path, "csv") as rows:
        found = _found(list(rows.rows()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == [(2, "a"), (3, "!row"), (4, "b")]
    assert peak < 2**20


_REFUSED: list[tuple[bytes, str]] = [
    (b"", "is empty"),
    (b"\n\r\n,,\n", "is empty"),
    (b"a,S1,500\nb,S2,600\n", "there is no column 'a'"),
    (b"idempotency_key,syssn\na,S1\n", "the column amount is missing"),
    (b"idempotency_key,syssn,amount,amount\n", "the column amount is there twice"),
    (b"idempotency_key,syssn,amount,note\n", "there is no column 'note'"),
    (b"Idempotency Key,syssn,amount\n", "did you mean idempotency_key?"),
    (b"idempotency_key,syssn,ammount\n", "did you mean amount?"),
    (b"idempotency_key, syssn, amount\n", "did you mean syssn?"),
    (b"idempotency_key;syssn;amount\na;S1;500\n", "separated by ';'"),
    (b"idempotency_key\tsyssn\tamount\n", "separated by '\\t'"),
    ("idempotency_key,syssn,amount\na,S1,5\n".encode("utf-16"), "UTF-16"),
    ("idempotency_key,syssn,amount\na,S1,5\n".encode("utf-16-le"), "UTF-16"),
    (b"idempotency_key\xff,syssn,amount\n", "there is no column"),
    (b'"idempotency_key,syssn,amount\na,S1,5\n', "no header"),
    (b"idempotency_key,syssn,amount\ra,S1,500\r", "no header"),
    (b"x" * 10 * LINE_MAX, "no header"),
    (HEADER + b'a,S1,500\n"b,S2,600\nc,S3,700\n', "line 3: a quote opens there"),
    (HEADER + b'a,S1,500\n"b,S2,600\n' + b"c,S3,700\n" * 20_000, "line 3: a quote opens there"),
    (HEADER + b'a,S1,500\n"b', "line 3: a quote opens there"),
    (b"PK\x03\x04\x14\x00\x06\x00rubbish", "there is no column"),
]


@pytest.mark.parametrize(("content", "says"), _REFUSED, ids=range(len(_REFUSED)))
def test_a_csv_that_is_not_readable_as_a_whole_is_refused(path: Path, content: bytes, says: str) -> None:
    """No header, wrong columns, another encoding or separator, a quote that swallows the rest: the text says what."""
    path.write_bytes(content)
    with pytest.raises(FileRefusedError) as refused:
        _read(path, content)
    assert says in str(refused.value)


def _folder(path: Path) -> None:
    path.mkdir()


def _unreadable(path: Path) -> None:
    path.write_bytes(HEADER)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads everything")


@pytest.mark.parametrize("make", [lambda path: None, _folder, _unreadable], ids=["missing", "folder", "unreadable"])
def test_a_file_that_cannot_be_opened_is_refused(path: Path, make: Any) -> None:
    """With what the system said."""
    make(path)
    with pytest.raises(FileRefusedError, match=r"cannot be read \("):
        RowFile(path, "csv")


def test_what_is_no_regular_file_is_refused(path: Path) -> None:
    """Rows are read twice; a device or a pipe cannot be (and nobody waits for a pipe's other end)."""
    os.mkfifo(path)
    for each in (path, Path(os.devnull)):
        with pytest.raises(FileRefusedError, match="save them to one first"):
            RowFile(each, "csv")


# ------------------------------------------------------------------------------------------------ JSON lines


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": 12.50}', "amount"),
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": 5e2}', "amount"),
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": true}', "amount"),
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": [500]}', "amount"),
        (b'{"idempotency_key": "x", "syssn": 20260101180500020000014079, "amount": 500}', "syssn"),
        (b'{"idempotency_key": "x", "syssn": "S1"}', "amount"),
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": 500, "note": 1}', "'note'"),
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": 500, "amount": 600}', "row"),
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": NaN}', "row"),
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": 500', "row"),
        (b'{"idempotency_key": "x", "syssn": "S1", "amount": 500} {}', "row"),
        (b'{"idempotency_key": "\\ud800", "syssn": "S1", "amount": 500}', "idempotency_key"),
        (b'{"idempotency_key": "\xff", "syssn": "S1", "amount": 500}', "row"),
        (b'["x", "S1", 500]', "row"),
        (b'"x"', "row"),
        (b"null", "row"),
        (b"[" * 5_000, "row"),
        (b'{"idempotency_key": ' + b"9" * 5_000 + b"}", "row"),
        (b"x" * (2 * LINE_MAX), "row"),
    ],
    ids=lambda value: ascii(value)[-40:],
)
def test_a_malformed_object_is_passed_over(path: Path, line: bytes, wrong: str) -> None:
    """Whatever two parsers could read differently, or is not one flat object, is that line's problem alone."""
    good = b'{"idempotency_key": "%s", "syssn": "S1", "amount": %s}\r\n'
    content = b"\xef\xbb\xbf" + good % (b"a", b"500") + b"\n" + line + b"\n" + good % (b"b", b'"600"')
    assert _found(_read(path, content, "jsonl")) == [(1, "a"), (3, f"!{wrong}"), (4, "b")]


def test_a_json_array_is_refused(path: Path) -> None:
    """One object on each line is not one array of objects."""
    with pytest.raises(FileRefusedError, match="JSON array"):
        _read(path, b'\n [{"idempotency_key": "a"}]\n', "jsonl")


def test_the_first_line_may_be_malformed(path: Path) -> None:
    """JSON lines have no header: a bad first line is a bad row."""
    rows = _read(path, b'nonsense\n{"idempotency_key": "a", "syssn": "S1", "amount": 5}\n', "jsonl")
    assert _found(rows) == [(1, "!row"), (2, "a")]


# ------------------------------------------------------------------------------------------------ the whole file


def test_a_first_pass_counts(path: Path) -> None:
    """Rows, accounts, operations, registrations, and the money by operation and currency."""
    content = (
        b"idempotency_key,syssn,amount,operation,currency,out_trade_no,authorized_amount,account\n"
        b"a,S1,500,,HKD,O1,1000,\nb,S1,200,capture,HKD,,,hk\nc,S2,,unfreeze,,,,hk\nd,C1,50,refund,USD,,,\nbad,,,,,,,\n"
    )
    path.write_bytes(content)
    with RowFile(path, "csv") as file:
        scan = file.scan()
    assert (scan.rows, scan.invalid, scan.registers) == (5, 1, 1)
    assert scan.accounts == {None: 2, "hk": 2}
    assert scan.counts == {"capture": 2, "unfreeze": 1, "refund": 1}
    assert scan.amounts == Counter({("capture", "HKD"): 700, ("refund", "USD"): 50, ("unfreeze", None): 0})


def test_what_is_appended_later_is_not_read(path: Path) -> None:
    """Each pass reads what was there when the file was opened, and says that it changed."""
    path.write_bytes(HEADER + b"a,S1,500\n")
    with RowFile(path, "csv") as file:
        assert not file.changed
        with path.open("ab") as more:
            more.write(b"b,S2,600\nc,S3")
        assert _found(list(file.rows())) == [(2, "a")]
        assert file.changed


@pytest.mark.parametrize(
    ("name", "given", "format"),
    [
        ("a.csv", None, "csv"),
        ("a.CSV", None, "csv"),
        ("a.jsonl", None, "jsonl"),
        ("a.ndjson", None, "jsonl"),
        ("a.csv", "jsonl", "jsonl"),
        ("a.txt", "csv", "csv"),
    ],
)
def test_the_format_is_given_or_the_ending_says_it(name: str, given: str | None, format: str) -> None:
    """`--format` wins; an unknown ending alone is refused."""
    assert format_of(Path(name), given) == format
    with pytest.raises(FileRefusedError, match="--format"):
        format_of(Path("rows.txt"), None)
