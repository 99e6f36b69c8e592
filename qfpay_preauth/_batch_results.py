"""The results file: one line for each row as it ends, written through at once, and never at the cost of an older file.

A results file that is already there is kept as NAME.1, NAME.2 … and a new one begun: every row gets its outcome anew
in every run (`replayed`, where an earlier one did it), so the newest file describes each row of its run once. A run
that is killed loses at most the line it was writing; a line that could not be written whole is taken back.
"""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qfpay_preauth._batch_files import FileRefusedError
from qfpay_preauth._batch_rows import BatchOutcome

COLUMNS = ("line", "idempotency_key", "operation", "syssn", "amount", "outcome", "result_syssn", "code", "message")
_HEADER = (",".join(COLUMNS) + "\n").encode()
_SHOWN_MAX = 500
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class ResultsFile:
    """Where a run's outcomes go.

    Args:
        path: made anew; a file that is no results file is refused, an older results file is kept under another name.
        format: "csv" or "jsonl".
        rows: the file that is being run.
        words: how an outcome's message is put.

    Attributes:
        kept: under which name an older results file was kept, or None.

    Raises:
        FileRefusedError: results cannot go there; nothing was changed.
    """

    def __init__(self, path: Path, format: str, rows: Path, words: Callable[[str], str]) -> None:
        self.path = path
        self._format = format
        self._words = words
        self.kept: Path | None = None
        try:
            self._file = self._opened(rows)
        except OSError as error:
            raise FileRefusedError(f"Results cannot be written to {path} ({error.strerror}): {_ELSEWHERE}") from error

    def __enter__(self) -> ResultsFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def write(self, outcome: BatchOutcome) -> None:
        """One line, written through to the system.

        Raises:
            OSError: it could not be written; nothing of it is left in the file.
        """
        self._append(self.line_of(outcome).encode(errors="backslashreplace"))

    def sync(self) -> None:
        """Let the system write it to the disk.

        Raises:
            OSError: it could not.
        """
        if stat.S_ISREG(os.fstat(self._file).st_mode):
            os.fsync(self._file)

    def line_of(self, outcome: BatchOutcome) -> str:
        """The line of an outcome, with its end."""
        cells = self.cells_of(outcome)
        if self._format == "jsonl":
            return json.dumps(cells) + "\n"
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow([_safe(cells[name]) for name in COLUMNS])
        return buffer.getvalue()

    def cells_of(self, outcome: BatchOutcome) -> dict[str, Any]:
        """Column → value, in the columns' order."""
        given = outcome.given if outcome.row is None and isinstance(outcome.given, Mapping) else {}
        return {
            "line": outcome.line,
            "idempotency_key": outcome.idempotency_key or _shown(given.get("idempotency_key")),
            "operation": outcome.operation or _shown(given.get("operation")),
            "syssn": outcome.syssn or _shown(given.get("syssn")),
            "amount": _shown(given.get("amount")) if outcome.amount is None else outcome.amount,
            "outcome": outcome.outcome,
            "result_syssn": outcome.result_syssn,
            "code": outcome.code,
            "message": self._words(outcome.message),
        }

    def _append(self, line: bytes) -> None:
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            self._take_back(len(line) - len(left))
            raise

    def _take_back(self, count: int) -> None:
        """Remove what of a line was written."""
        if count and stat.S_ISREG(os.fstat(self._file).st_mode):
            os.ftruncate(self._file, os.fstat(self._file).st_size - count)

    # ------------------------------------------------------------------ opening

    def _opened(self, rows: Path) -> int:
        if self.path.exists():
            if self.path.samefile(rows):
                raise FileRefusedError(f"{self.path} is the file with the rows itself: {_ELSEWHERE}")
            found = self.path.stat()
            if stat.S_ISDIR(found.st_mode):
                raise FileRefusedError(f"{self.path} is a folder: {_ELSEWHERE}")
            if not stat.S_ISREG(found.st_mode):
                return self._begun(os.open(self.path, os.O_WRONLY | _NO_TERMINAL))
            if self.path.is_symlink():  # what it leads to makes room, never the link (/dev/stdout is one)
                self.path = self.path.resolve()
            self._make_room()
        elif self.path.is_symlink():
            raise FileRefusedError(f"{self.path} is a link to nowhere: {_ELSEWHERE}")
        try:
            return self._begun(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o666))
        except FileExistsError as error:
            raise FileRefusedError(f"Another run is writing to {self.path}: {_ELSEWHERE}") from error
        except OSError:
            if self.kept is not None:
                self.kept.rename(self.path)  # over what we began, if anything
            raise

    def _begun(self, file: int) -> int:
        self._file = file
        try:
            _lock(file, self.path)
            if self._format == "csv":
                self._append(_HEADER)
        except BaseException:
            os.close(file)
            raise
        return file

    def _make_room(self) -> None:
        """Keep the results that are there under another name; what is no results file is left alone."""
        file = os.open(self.path, os.O_RDWR)
        try:
            _lock(file, self.path)
            start = os.read(file, 65_536)
            if start and not _is_results(start):
                raise FileRefusedError(f"{self.path} is there and holds no results of a run: {_ELSEWHERE}")
            if start in (b"", _HEADER):
                self.path.unlink()  # a run that was killed before its first row had ended
            else:
                self.kept = _free_name(self.path)
                self.path.rename(self.kept)
        finally:
            os.close(file)


_ELSEWHERE = "give another --results. Nothing was sent."
_NO_TERMINAL = getattr(os, "O_NOCTTY", 0)


def _is_results(start: bytes) -> bool:
    if start.startswith(_HEADER.rstrip()):
        return True
    try:
        first = json.loads(start.partition(b"\n")[0])
    except ValueError:
        return False
    return isinstance(first, dict) and tuple(first) == COLUMNS


def _free_name(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.name}.{number}")).exists() or kept.is_symlink():
        number += 1
    return kept


def _lock(file: int, path: Path) -> None:
    """Two runs may not write to one file.

    Raises:
        FileRefusedError: another run does.
    """
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FileRefusedError(f"Another run is writing to {path}: {_ELSEWHERE}") from error
    except OSError:
        return  # a device, or a file system without locks


def _shown(value: object) -> str | None:
    """What an unreadable row held, as far as it can be shown."""
    return None if value in (None, "") else str(value)[:_SHOWN_MAX]


def _safe(cell: object) -> str:
    """A cell on one line that no spreadsheet takes for a formula."""
    text = "" if cell is None else str(cell)
    text = "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
    return f"'{text}" if text.startswith(_FORMULA) else text
