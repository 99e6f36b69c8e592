"""What a run shows while it goes on, and at its end: a bar on a terminal, lines elsewhere, objects for machines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from attrs import define, field
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qfpay_preauth._batch_files import Scan
from qfpay_preauth._batch_rows import BatchOutcome, RowOutcome
from qfpay_preauth._cli_screen import Screen, emit_json, hush_stdout, money, say, say_aside
from qfpay_preauth._models import Operation
from qfpay_preauth._settings import Settings

EVERY_S = 10.0
_RECENT_S = 60.0
_DID = {Operation.CAPTURE: "captures", Operation.UNFREEZE: "unfreezes", Operation.REFUND: "refunds"}
_MONEY = (RowOutcome.EXECUTED, RowOutcome.REPLAYED, RowOutcome.IN_DOUBT)


@define
class Tally:
    """What came of the rows so far.

    `total` is how many there are, `left` how many of each account are still to come; `default` is the account of rows
    that name none.
    """

    total: int
    left: Counter[str | None]
    default: str | None
    settings: Settings
    counts: Counter[RowOutcome] = field(factory=Counter)
    sums: Counter[tuple[RowOutcome, Operation, str]] = field(factory=Counter)
    began: float = field(factory=time.monotonic)
    _recent: list[tuple[float, int]] = field(factory=list)

    @property
    def done(self) -> int:
        """How many rows have an outcome."""
        return self.counts.total()

    def add(self, outcome: BatchOutcome) -> None:
        """Count one."""
        self.counts[outcome.outcome] += 1
        if outcome.row is None:
            return
        self.left[outcome.row.account or self.default] -= 1
        if outcome.outcome in _MONEY and outcome.amount:
            currency = outcome.currency or "?"
            self.sums[outcome.outcome, outcome.row.operation, currency] += outcome.amount

    def rate(self) -> float:
        """Rows a second, of late."""
        now = time.monotonic()
        self._recent.append((now, self.done))
        while self._recent[0][0] < now - _RECENT_S:
            self._recent.pop(0)
        since, then = self._recent[0] if now - self.began > _RECENT_S else (self.began, 0)
        return (self.done - then) / max(now - since, 0.001)

    def eta_s(self) -> float | None:
        """Seconds to the end: as fast as the budget allows, or as it went of late where that is slower."""
        if not self.done:
            return None
        rate = self.rate()
        budget = max(self.left.values(), default=0) * 60 / self.settings.requests_per_minute
        return max(budget, (self.total - self.done) / rate) if rate else budget

    def words(self) -> str:
        """How many of each outcome."""
        found = [f"{word} {self.counts[word]:,}" for word in RowOutcome if self.counts[word]]
        return ", ".join(found).replace("_", " ") or "nothing has ended yet"

    def money(self, word: RowOutcome) -> list[str]:
        """The totals of one outcome, an entry for each operation and currency."""
        return [
            f"{_DID[operation]} {self.amount(total, currency)}"
            for (outcome, operation, currency), total in sorted(self.sums.items())
            if outcome is word
        ]

    def amount(self, minor: int, currency: str) -> str:
        """As people read it."""
        return f"{minor:,} minor units" if currency == "?" else money(minor, currency, self.settings.currency_exponents)

    def fields(self) -> dict[str, object]:
        """The same for machines; amounts are minor units."""
        return {
            "rows": self.total,
            "ended": self.done,
            "elapsed_s": round(time.monotonic() - self.began, 3),
            "outcomes": {word.value: self.counts[word] for word in RowOutcome},
            "amounts": [
                {"outcome": outcome, "operation": operation, "currency": currency, "amount": total}
                for (outcome, operation, currency), total in sorted(self.sums.items())
            ],
        }


def tally_of(scan: Scan, default: str | None, settings: Settings) -> Tally:
    """Nothing has ended yet of what the first pass counted."""
    left: Counter[str | None] = Counter()
    for account, count in scan.accounts.items():
        left[account or default] += count
    return Tally(scan.rows, left, default, settings)


def span(seconds: float) -> str:
    """A length of time in its two largest units."""
    whole = round(seconds)
    if whole >= 3_600:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


# ------------------------------------------------------------------------------------------------ views


class View:
    """Shows nothing but what must be said: `--quiet`."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    @contextmanager
    def shown(self) -> Iterator[None]:
        """While the run goes on."""
        yield

    def tick(self) -> None:
        """Called every ten seconds."""

    def close(self) -> None:
        """Give the terminal back at once."""

    def end(self, more: Mapping[str, object]) -> None:
        """The run has ended; `more` is the results file and so on."""


class Lines(View):
    """Plain lines: progress on stderr, the totals on stdout."""

    def tick(self) -> None:
        tally = self.tally
        eta = tally.eta_s()
        left = "" if eta is None else f", about {span(eta)} left"
        say_aside(f"{tally.done:,} of {tally.total:,} rows, {tally.rate():.1f} a second{left}: {tally.words()}")

    def end(self, more: Mapping[str, object]) -> None:
        for line in self._lines(more):
            _say(line)

    def _lines(self, more: Mapping[str, object]) -> Iterator[str]:
        tally = self.tally
        yield f"{tally.done:,} of {tally.total:,} rows in {span(time.monotonic() - tally.began)}"
        for word in RowOutcome:
            if tally.counts[word]:
                sums = "; ".join(tally.money(word))
                yield f"  {word.value.replace('_', ' '):<9}{tally.counts[word]:>12,}  {sums}".rstrip()
        yield f"results: {more['results']}"
        if tally.counts[RowOutcome.IN_DOUBT]:
            yield "In doubt: money may have moved. Run the same file again: it looks for evidence, sends none again."
        if tally.done < tally.total:
            yield "It did not come to its end. Run the same file again: nothing is done twice."


class Bar(Lines):
    """A bar with rate, time left, outcomes and money, on a terminal."""

    def __init__(self, tally: Tally, console: Screen) -> None:
        super().__init__(tally)
        self._live = Live(
            console=console,
            get_renderable=self._rendered,
            refresh_per_second=4,
            transient=True,
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        with self._live:
            yield

    def tick(self) -> None:
        """It moves by itself."""

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._live.stop()

    def _rendered(self) -> RenderableType:
        tally = self.tally
        eta = tally.eta_s()
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_row(
            ProgressBar(total=max(tally.total, 1), completed=tally.done, width=30),
            f"{tally.done:,}/{tally.total:,} rows",
            f"{tally.rate():.1f}/s",
            "" if eta is None else f"{span(eta)} left",
        )
        sums = "; ".join(tally.money(RowOutcome.EXECUTED))
        return Group(grid, Text(tally.words()), *([Text(sums)] if sums else []))


class Machine(View):
    """One JSON object a line on stdout: progress every ten seconds (not with --quiet), and the end."""

    def __init__(self, tally: Tally, *, quiet: bool) -> None:
        super().__init__(tally)
        self._quiet = quiet

    def tick(self) -> None:
        if not self._quiet:
            more = {"rate_per_s": round(self.tally.rate(), 2), "eta_s": _rounded(self.tally.eta_s())}
            self._emit({"event": "progress", **self.tally.fields(), **more})

    def end(self, more: Mapping[str, object]) -> None:
        self._emit({"event": "end", **self.tally.fields(), **more})

    def _emit(self, value: object) -> None:
        try:
            emit_json(value)
        except OSError:
            hush_stdout()  # whoever reads has left: the run goes on, its results are in the file


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _say(line: str) -> None:
    try:
        say(line)
    except OSError:
        hush_stdout()


def view_of(tally: Tally, *, json: bool, quiet: bool) -> View:
    """The view that was asked for, and that fits where it is shown."""
    if json:
        return Machine(tally, quiet=quiet)
    if quiet:
        return View(tally)
    console = Screen(stderr=True, highlight=False)
    on_terminal = sys.stderr is not None and sys.stderr.isatty() and not console.is_dumb_terminal
    return Bar(tally, console) if on_terminal else Lines(tally)
