"""A file of rows, CSV or JSON lines: checked as a whole, then read row by row, with bounded memory.

A line that cannot be read is an `invalid` row. A file that cannot be read as a whole is refused: no header, wrong
columns, UTF-16, a quote that never closes.
"""

from __future__ import annotations

import csv
import difflib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from attrs import define, field

from qfpay_preauth._batch_rows import COLUMNS, REQUIRED, BatchOutcome, BatchRow, RowProblem, invalid, read_row
from qfpay_preauth._json import read_object
from qfpay_preauth.errors import shown

LINE_MAX = 65_536
"""Bytes of one line, and of one record with line breaks in quotes; a longer one is not read."""
FORMATS = {"csv": (".csv",), "jsonl": (".jsonl", ".ndjson")}

_BOM = b"\xef\xbb\xbf"
_FORMULA = ("=", "+", "-", "@")
_EXAMPLE = f"The first line must name the columns, for example: {','.join(REQUIRED)}"


class FileRefusedError(Exception):
    """The file is not readable (or writable) as a whole; the text says what to do. Nothing was sent."""


@define
class Scan:
    """What a first pass found: how many rows, for which account, and how much money they ask for.

    `amounts` are by (operation, currency); the currency is None where the row leaves it to the registered hold.
    `registers`: how many rows bring their authorization.
    """

    rows: int = 0
    invalid: int = 0
    registers: int = 0
    accounts: Counter[str | None] = field(factory=Counter)
    amounts: Counter[tuple[str, str | None]] = field(factory=Counter)
    counts: Counter[str] = field(factory=Counter)


def format_of(path: Path, given: str | None) -> str:
    """The format that was given, else the one of the file's ending.

    Raises:
        FileRefusedError: the ending says nothing.
    """
    if given is not None:
        return given
    for name, endings in FORMATS.items():
        if path.suffix.lower() in endings:
            return name
    raise FileRefusedError(f"{path}: the ending does not say what it is. Add --format csv or --format jsonl.")


class RowFile:
    """One file, open; every pass reads the bytes that were there when it was opened.

    Args:
        path: a regular file.
        format: "csv" or "jsonl".

    Raises:
        FileRefusedError: it cannot be opened, or is no file of rows.
    """

    def __init__(self, path: Path, format: str) -> None:
        self.path = path
        self.format = format
        try:
            if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
                raise FileRefusedError(f"{path} is no regular file: rows are read twice, so save them to one first.")
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise FileRefusedError(f"{path} cannot be read ({error.strerror}). Nothing was sent.") from error
        try:
            self._opened = os.fstat(self._file.fileno())
            self._check_encoding()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def changed(self) -> bool:
        """Whether somebody wrote to it since it was opened."""
        now, then = os.fstat(self._file.fileno()), self._opened
        return (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns)

    def scan(self) -> Scan:
        """A first pass over the whole file.

        Raises:
            FileRefusedError: it is not readable as a whole.
        """
        found = Scan()
        for row in self.rows():
            found.rows += 1
            if isinstance(row, BatchOutcome):
                found.invalid += 1
                continue
            found.accounts[row.account] += 1
            found.registers += row.authorized_amount is not None
            found.counts[row.operation.value] += 1
            found.amounts[row.operation.value, row.currency] += row.amount or 0
        return found

    def rows(self) -> Iterator[BatchRow | BatchOutcome]:
        """Every row in order; what cannot be read as its `invalid` outcome. Empty lines are skipped.

        Raises:
            FileRefusedError: it is not readable as a whole.
            OSError: it could not be read on.
        """
        lines = _Lines(self._file, self._opened.st_size)
        return self._csv(lines) if self.format == "csv" else self._jsonl(lines)

    def _check_encoding(self) -> None:
        start = self._file.read(4)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in start:
            raise FileRefusedError(f"{self.path} is not UTF-8 text (UTF-16?): save it as CSV UTF-8.")

    # ------------------------------------------------------------------ CSV

    def _csv(self, lines: _Lines) -> Iterator[BatchRow | BatchOutcome]:
        records = csv.reader(lines, strict=True)
        header = self._header(lines, records)
        while True:
            first = lines.begin_record()
            try:
                cells = next(records)
            except StopIteration:
                return
            except (csv.Error, _TooLongError) as error:
                if lines.unclosed or (isinstance(error, csv.Error) and lines.ended and "unexpected end" in str(error)):
                    raise self._unclosed(first) from error
                yield invalid(first, [_malformed(error, first, lines.number)], None)
                continue
            if any(cells):
                yield self._record(header, cells, first, lines)

    def _header(self, lines: _Lines, records: Iterator[list[str]]) -> Sequence[str]:
        try:
            lines.begin_record()
            header = next((cells for cells in records if any(cells)), None)
        except (csv.Error, _TooLongError) as error:
            raise FileRefusedError(f"{self.path}, line {lines.number}: no header ({error}). {_EXAMPLE}") from error
        if header is None:
            raise FileRefusedError(f"{self.path} is empty. {_EXAMPLE}")
        self._check_header(header)
        return header

    def _check_header(self, header: Sequence[str]) -> None:
        for name in header:
            if name not in COLUMNS:
                raise FileRefusedError(f"{self.path}: {_unknown_column(name)}")
        twice = [name for name, count in Counter(header).items() if count > 1]
        if twice:
            raise FileRefusedError(f"{self.path}: the column {twice[0]} is there twice. Remove one.")
        missing = [name for name in REQUIRED if name not in header]
        if missing:
            raise FileRefusedError(f"{self.path}: the column {missing[0]} is missing. {_EXAMPLE}")

    def _unclosed(self, line: int) -> FileRefusedError:
        return FileRefusedError(
            f"{self.path}, line {line}: a quote opens there and does not close, so the rows after it cannot be told "
            "apart. Correct that line."
        )

    def _record(self, header: Sequence[str], cells: list[str], line: int, lines: _Lines) -> BatchRow | BatchOutcome:
        if len(cells) != len(header):
            said = f"has {len(cells)} cells, the header has {len(header)}"
            return invalid(line, [RowProblem("row", said)], dict(zip(header, cells, strict=False)))
        given = dict(zip(header, cells, strict=True))
        problems = [RowProblem(name, "holds a line break") for name in header if "\n" in given[name]]
        if lines.spoilt:
            problems += [RowProblem(name, "is not UTF-8") for name in header if not _is_text(given[name])]
        return invalid(line, problems, given) if problems else _checked(given, line)

    # ------------------------------------------------------------------ JSON lines

    def _jsonl(self, lines: _Lines) -> Iterator[BatchRow | BatchOutcome]:
        begun = False
        while True:
            number = lines.begin_record()
            try:
                text = next(lines)
            except StopIteration:
                return
            except _TooLongError as error:
                yield invalid(number, [_malformed(error, number, number)], None)
                continue
            if not text.strip():
                continue
            if not begun and text.lstrip().startswith("["):
                raise FileRefusedError(f"{self.path} is a JSON array: write one object on each line, without [ and ].")
            begun = True
            yield self._object(text, number, lines)

    def _object(self, text: str, line: int, lines: _Lines) -> BatchRow | BatchOutcome:
        if lines.spoilt:
            return invalid(line, [RowProblem("row", "is not UTF-8")], None)
        given = read_object(text.encode())
        if given is None:
            said = "is not one JSON object with each name once (no NaN, nothing nested deep)"
            return invalid(line, [RowProblem("row", said)], None)
        return _checked(given, line)


def _checked(given: Mapping[str, object], line: int) -> BatchRow | BatchOutcome:
    """A row, which in a file must also survive the spreadsheets that its results will be opened with."""
    row = read_row(given, line)
    if isinstance(row, BatchOutcome):
        return row
    problems = [
        RowProblem(name, f"begins with {value[0]}, which spreadsheets take for a formula: begin with a letter or digit")
        for name, value in (("idempotency_key", row.idempotency_key), ("syssn", row.syssn))
        if value.startswith(_FORMULA)
    ]
    return invalid(line, problems, given) if problems else row


def _is_text(cell: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in cell)


def _malformed(error: Exception, first: int, last: int) -> RowProblem:
    if isinstance(error, _TooLongError):
        return RowProblem("row", f"is longer than {LINE_MAX} bytes")
    if first != last:
        return RowProblem("row", f"lines {first} to {last} cannot be told apart ({error}): none of them was sent")
    if "new-line character" in str(error):
        return RowProblem("row", "holds a carriage return that ends no line")
    return RowProblem("row", f"is not CSV ({error})")


def _unknown_column(name: str) -> str:
    other = next((sign for sign in (";", "\t", "|") if sign in name), None)
    if other is not None:
        return f"the columns are separated by {other!r}: save it with commas."
    near = difflib.get_close_matches(name.strip().lower().replace(" ", "_"), COLUMNS, 1)
    if near:
        return f"there is no column {shown(name)}: did you mean {near[0]}?"
    return f"there is no column {shown(name)}. {_EXAMPLE}; also {', '.join(COLUMNS[len(REQUIRED) :])}."


# ------------------------------------------------------------------------------------------------ lines


class _TooLongError(Exception):
    """A line, or a record with line breaks in quotes, is longer than LINE_MAX; it was passed over."""


class _Lines(Iterator[str]):
    """The lines of a file as text, up to a size; `number` is that of the last one.

    Bytes that are no UTF-8 become lone surrogates, and the record is marked `spoilt`. `unclosed`: a record went on over
    lines until it was too long, as after a quote that does not close.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size
        self.number = 0
        self.spoilt = self.unclosed = self.ended = False
        self._record = self._record_lines = 0
        file.seek(0)

    def begin_record(self) -> int:
        """A record begins with the next line: its number."""
        self._record = self._record_lines = 0
        self.spoilt = self.unclosed = False
        return self.number + 1

    def __next__(self) -> str:
        raw = self._file.readline(min(LINE_MAX + 1, self._left))
        if not raw:
            self.ended = True
            raise StopIteration
        self._left -= len(raw)
        self.number += 1
        if self.number == 1:
            raw = raw.removeprefix(_BOM)
        self._record += len(raw)
        self._record_lines += 1
        if self._record > LINE_MAX:
            self.unclosed = self._record_lines > 1
            self._skip(raw)
            raise _TooLongError(f"longer than {LINE_MAX} bytes")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.spoilt = True
            return raw.decode(errors="surrogateescape")

    def _skip(self, raw: bytes) -> None:
        """Pass over the rest of a line."""
        while raw and not raw.endswith(b"\n"):
            raw = self._file.readline(min(LINE_MAX, self._left))
            self._left -= len(raw)
