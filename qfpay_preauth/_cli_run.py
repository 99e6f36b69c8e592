"""`run`: a file of captures, unfreezes and refunds, from its first check to the last line of its results."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Literal

from attrs import define, field, frozen
from cyclopts import Parameter, validators

from qfpay_preauth._batch_files import FileRefusedError, RowFile, Scan, format_of
from qfpay_preauth._batch_results import ResultsFile
from qfpay_preauth._batch_rows import BatchOutcome, RowOutcome
from qfpay_preauth._cli_errors import error_object, in_commands, in_words
from qfpay_preauth._cli_run_check import Known, rehearse
from qfpay_preauth._cli_run_view import EVERY_S, View, tally_of, view_of
from qfpay_preauth._cli_screen import (
    EXIT_DOUBT,
    EXIT_INTERRUPTED,
    EXIT_NO,
    EXIT_OK,
    EXIT_REFUSED,
    UsageError,
    confirm_money,
    emit_json_aside,
    money,
    say_aside,
)
from qfpay_preauth._cli_session import DEFAULTS, Options, Yes, account_of, profile_of
from qfpay_preauth._client import PreauthClient
from qfpay_preauth._profile import Profile, load_profile, open_clients
from qfpay_preauth.errors import ConfigurationError, Outcome, PreauthError

Format = Literal["csv", "jsonl"]
_SWITCH = Parameter(negative=(), show_default=False)
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


def run(
    file: Path,
    /,
    *,
    results: Path | None = None,
    format: Annotated[Format | None, Parameter(show_choices=True)] = None,
    concurrency: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=1_000))] = 16,
    dry_run: Annotated[bool, _SWITCH] = False,
    quiet: Annotated[bool, _SWITCH] = False,
    yes: Yes = False,
    options: Options = DEFAULTS,
) -> int:
    """Run a file of captures, unfreezes and refunds, within the rate limit, and write what became of each row.

    Columns: idempotency_key, syssn, amount (minor units), and optionally operation (capture by default), currency,
    out_trade_no, authorized_amount (the row then registers its hold), account. Run the same file again after a crash
    or Ctrl-C: nothing is done twice, and only what did not happen is sent. Results come as rows end, not in the file's
    order; an older results file is kept as NAME.1, NAME.2 …

    Ctrl-C once: nothing more is sent, what was sent is waited for. Twice: stops at once, what was sent is in doubt.

    Exit codes: 0 every row is executed or replayed. 1 it could not run, or stopped (rejected credentials, no ledger,
    results that cannot be written). 2 wrong usage, or a file that cannot be read as a whole; nothing was sent. 3 some
    rows are refused, declined, not_sent or invalid. 4 doubts are left (whatever else there is). 130 interrupted.

    Example: `qfpay-preauth run captures.csv --results results.csv`

    Args:
        file: CSV with a header, or JSON lines; UTF-8.
        results: Where the outcome of each row is written: line, idempotency_key, operation, syssn, amount, outcome,
            result_syssn, code, message. JSON lines if it ends in .jsonl.
        format: Of the file, if its ending (.csv, .jsonl, .ndjson) does not say.
        concurrency: How many rows of one account may be under way.
        dry_run: Only check the file: every refusal with line, column and reason. Nothing is sent or written.
        quiet: Nothing but errors.
    """
    try:
        with RowFile(file, format_of(file, format)) as rows:
            scan = rows.scan()
            if dry_run:
                return rehearse(rows, _known(options), json=options.json, quiet=quiet)
            return _run(rows, scan, _Wish(results, concurrency, quiet, yes, options))
    except FileRefusedError as error:
        raise UsageError(str(error)) from error


@frozen
class _Wish:
    """What was asked for."""

    results: Path | None
    concurrency: int
    quiet: bool
    yes: bool
    options: Options


def _known(options: Options) -> Known | None:
    """What the configuration says of rows; None where nothing is configured: a rehearsal needs no credentials."""
    try:
        profile = load_profile(options.profile, os.environ)
    except ConfigurationError:
        if options.profile is not None:
            raise
        return None
    stated = frozenset(profile.settings.currency_exponents)
    return Known(_default_account(profile, options), frozenset(profile.accounts), stated)


def _default_account(profile: Profile, options: Options) -> str | None:
    """The account of rows that name none."""
    return account_of(profile, options) if options.account else profile.default_account or None


def _run(rows: RowFile, scan: Scan, wish: _Wish) -> int:
    if wish.results is None:
        raise UsageError("Give --results FILE: without a record of what became of each row nothing is sent.")
    profile = profile_of(wish.options, makes_ledger=scan.registers > 0)
    default = _default_account(profile, wish.options)
    if default is None and scan.accounts[None]:
        names = ", ".join(sorted(profile.accounts))
        raise UsageError(
            f"{scan.accounts[None]} rows name no account: fill the column account, or give --account ({names})."
        )
    confirm_money(profile.environment, _deed(rows, scan, profile), yes=wish.yes)
    tally = tally_of(scan, default, profile.settings)
    view = view_of(tally, json=wish.options.json, quiet=wish.quiet)
    job = _Job(rows, wish, profile, default, view, wish.results)
    # each lost answer would be a warning: here it is a line of the results
    logging.getLogger("qfpay_preauth").addHandler(logging.NullHandler())
    return asyncio.run(job.run())


def _deed(rows: RowFile, scan: Scan, profile: Profile) -> str:
    parts = []
    for (operation, currency), amount in sorted(scan.amounts.items(), key=str):
        exponents = profile.settings.currency_exponents
        sum_ = money(amount, currency, exponents) if currency else f"{amount:,} minor units of the holds' currencies"
        parts.append(f"{operation} {sum_}")
    more = f"; {scan.invalid:,} more cannot be read" if scan.invalid else ""
    return f"Run {scan.rows - scan.invalid:,} rows of {rows.path} ({', '.join(parts) or 'nothing'}{more})"


@define
class _Job:
    """One run, and what kept it from its end."""

    rows: RowFile
    wish: _Wish
    profile: Profile
    default: str | None
    view: View
    path: Path
    stop: asyncio.Event = field(factory=asyncio.Event)
    interrupted: bool = False
    failed: bool = False
    unwritten: list[BatchOutcome] = field(factory=list)

    async def run(self) -> int:
        """Run every row; the exit code."""
        async with self._interruptible(), open_clients(self.profile) as clients:
            with ResultsFile(self.path, _results_format(self.path, self.rows), self.rows.path, in_commands) as results:
                with self.view.shown():
                    await self._all(clients, results)
                self._finish(results)
                self.view.end(self._more(results))
        return self._exit_code()

    async def _all(self, clients: Mapping[str, PreauthClient], results: ResultsFile) -> None:
        """Every row to its outcome, or until something stops it."""
        client = clients[self.default or next(iter(clients))]
        outcomes = client.capture_many(
            self.rows.rows(), concurrency=self.wish.concurrency, accounts=clients, stop=self.stop
        )
        try:
            async with _ticking(self.view), aclosing(outcomes):
                async for outcome in outcomes:
                    self._record(outcome, results)
        except (PreauthError, FileRefusedError, OSError) as error:
            self._fail(error)

    def _record(self, outcome: BatchOutcome, results: ResultsFile) -> None:
        self.view.tally.add(outcome)
        if self.unwritten:  # once one could not be written, none is: what is missing is said at the end, whole
            self.unwritten.append(outcome)
            return
        try:
            results.write(outcome)
        except OSError as error:
            self.unwritten.append(outcome)
            self.stop.set()
            self._fail(error, f"Stopped: the results cannot be written to {results.path} ({error.strerror}).")

    def _fail(self, error: Exception, text: str = "") -> None:
        """Say why the run stopped."""
        self.failed = True
        text = text or f"Stopped: {in_words(error)}"
        if self.wish.options.json:
            # the error is about what stopped the run; what the run did is another matter
            emit_json_aside({**error_object(error, EXIT_NO), "outcome": self._did(), "message": text})
        else:
            say_aside(text)

    def _did(self) -> Outcome:
        """What the run has done so far."""
        counts = self.view.tally.counts
        if counts[RowOutcome.IN_DOUBT]:
            return Outcome.UNKNOWN
        if counts[RowOutcome.EXECUTED]:
            return Outcome.HAPPENED
        return Outcome.UNKNOWN if self.unwritten else Outcome.NOTHING_HAPPENED  # some may still be under way

    def _finish(self, results: ResultsFile) -> None:
        """What has to be said of the record itself."""
        if not self.unwritten:
            try:
                results.sync()
            except OSError as error:
                self._fail(error, f"The results may not be on the disk ({error.strerror}): run the file again.")
        told = [each for each in self.unwritten if each.outcome not in (RowOutcome.NOT_SENT, RowOutcome.INVALID)]
        if told:
            self._warn(f"These {len(told)} rows ended, and are not in {results.path}; the ledger knows them:")
        for outcome in told:
            if self.wish.options.json:
                emit_json_aside({"event": "unwritten", **results.cells_of(outcome)})
            else:
                say_aside(results.line_of(outcome).rstrip("\r\n"))
        if self.rows.changed:
            self._warn(f"{self.rows.path} was changed while it ran: run it again to be sure of every row.")

    def _warn(self, text: str) -> None:
        if self.wish.options.json:
            emit_json_aside({"warning": text})
        else:
            say_aside(f"warning: {text}")

    def _more(self, results: ResultsFile) -> dict[str, object]:
        kept = {} if results.kept is None else {"earlier_results": str(results.kept)}
        return {"results": str(results.path), **kept, "exit_code": self._exit_code()}

    def _exit_code(self) -> int:
        counts = self.view.tally.counts
        if self.failed:
            return EXIT_NO
        if self.interrupted:
            return EXIT_INTERRUPTED
        if counts.total() < self.view.tally.total:
            return EXIT_NO  # somebody took rows out of the file while it ran
        if counts[RowOutcome.IN_DOUBT]:
            return EXIT_DOUBT
        done = counts[RowOutcome.EXECUTED] + counts[RowOutcome.REPLAYED]
        return EXIT_OK if done == counts.total() else EXIT_REFUSED

    # ------------------------------------------------------------------ Ctrl-C

    @asynccontextmanager
    async def _interruptible(self) -> AsyncIterator[None]:
        """Ctrl-C (or a polite end from outside) stops once gently, then hard."""
        loop = asyncio.get_running_loop()
        which = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name)]
        with contextlib.suppress(NotImplementedError):  # not on this system: then it drains without a word
            for each in which:
                loop.add_signal_handler(each, self._interrupt)
        try:
            yield
        finally:
            with contextlib.suppress(NotImplementedError):
                for each in which:
                    loop.remove_signal_handler(each)

    def _interrupt(self) -> None:
        if self.interrupted:
            self.view.close()
            say_aside("Stopped hard: what was sent may have happened, and is in doubt. Run the same file again.")
            os._exit(EXIT_INTERRUPTED)
        self.interrupted = True
        self.stop.set()
        say_aside("Stopping: nothing more is sent, what was sent is waited for. Ctrl-C again stops at once.")


def _results_format(path: Path, rows: RowFile) -> str:
    """The results' own ending says it; else they are like the rows."""
    try:
        return format_of(path, None)
    except FileRefusedError:
        return rows.format


@asynccontextmanager
async def _ticking(view: View) -> AsyncIterator[None]:
    async def tick() -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            view.tick()

    task = asyncio.create_task(tick())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
