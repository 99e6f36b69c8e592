"""One account's side of a batch: what a row does with its client, and what is tried again within the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING

from qfpay_preauth import _outcomes
from qfpay_preauth._batch import Batch, Later, Turn
from qfpay_preauth._batch_rows import BatchOutcome, BatchRow, RowOutcome, RowProblem, ended, failed, read_row
from qfpay_preauth._books import BooksClient
from qfpay_preauth._lifetime import Running
from qfpay_preauth._models import Entry, Operation, Result, State
from qfpay_preauth._windows import Lane
from qfpay_preauth.errors import (
    ConfigurationError,
    CredentialsRejectedError,
    IdempotencyConflictError,
    LedgerUnavailableError,
    NotSentError,
    OperationInProgressError,
    Outcome,
    PreauthError,
    RateLimitedError,
    shown,
)

if TYPE_CHECKING:
    from qfpay_preauth.ledger import Books

log = logging.getLogger("qfpay_preauth")

WAITS_MAX = 60
"""How often a row waits for its turn (our own budget, an operation of another process), up to five seconds each."""
LIMITED_MAX = 5
"""How often a row is tried again that the gateway answered with 429, though the account waited."""
NOT_SENT_MAX = 2
"""How often a row is tried again that did not reach the gateway."""
LOOKS_MAX = 3
"""How often evidence is looked for before the first row where the gateway does not let itself be asked."""
_LOOK_FIRST_S, _LOOK_MAX_S = 0.25, 5.0

Operate = Callable[..., Awaitable[Result]]
"""`PreauthClient._operate`."""
Register = Callable[..., Awaitable[object]]
"""`PreauthClient.register_authorization`."""


class Teller:
    """Runs the rows of one account.

    Args:
        client: the account's, open.
        operate, register: its methods.
        timing: deadline_s and patience_s of each row; None: as the client's settings say.
        group: names this batch's calls, so that those not yet sent can be called off together.
    """

    def __init__(
        self,
        client: BooksClient,
        operate: Operate,
        register: Register,
        timing: tuple[float | None, float | None],
        group: object,
    ) -> None:
        self._client = client
        self._operate = operate
        self._register = register
        self._timing = timing
        self._group = group
        self._called_off = False

    async def look_first(self) -> None:
        """Look for evidence about what is in doubt from before, so that this run starts with what can be known.

        Not about what has waited for a person for a day: the gateway's list of all the time since would be read before
        the first row. A row of the batch that is such a doubt itself is looked at in its turn.

        Raises:
            CredentialsRejectedError, LedgerUnavailableError: no row could go better.
        """
        await self._client._desk()
        async with aclosing(self._client.in_doubt()) as doubts:
            if await anext(doubts, None) is None:
                return
        for _ in range(LOOKS_MAX):
            try:
                await self._running.reconciler.end_doubts(recent=True)
                return
            except (CredentialsRejectedError, LedgerUnavailableError, ConfigurationError):
                raise
            except PreauthError as error:
                log.warning("no evidence could be read before the batch: %s", error.args[0])  # the doubts stay

    @property
    def _running(self) -> Running:
        running = self._client._running
        if running is None:
            raise ConfigurationError("The client was closed.", advice="Enter it again: `async with client:`.")
        return running

    def call_off(self) -> None:
        """Send nothing more of this batch."""
        self._called_off = True
        if self._client._running is not None:
            self._client._running.calls.call_off(self._group)

    def adopt(self, task: asyncio.Task[None]) -> None:
        """Let the task end with the client, where nobody ends it before."""
        background = self._running.background
        background.add(task)
        task.add_done_callback(background.discard)

    async def perform(self, turn: Turn) -> BatchOutcome | Later:
        """Run one row: its outcome, or that it has to be tried again."""
        row = turn.row
        try:
            if row.authorized_amount is not None:
                await self._register(row.syssn, row.authorized_amount, row.currency, out_trade_no=row.out_trade_no)
            elif row.currency is not None or row.out_trade_no is not None:
                await self._compare(row)
            if self._called_off:
                raise NotSentError("The batch stopped before this row was sent.", advice="Run it again as it is.")
            result = await self._operate(
                row.operation, row.syssn, row.amount, row.idempotency_key, *self._timing, Lane.BATCH, self._group
            )
        except PreauthError as error:
            return await self._failed(turn, error)
        return ended(row, turn.line, result)

    # ------------------------------------------------------------------ what the row says of its hold

    async def _compare(self, row: BatchRow) -> None:
        """What a row says about its hold must be what the books say: an amount means nothing in another currency."""
        books = await self._books(row)
        if books is None:
            return  # the operation itself says what is unknown
        hold = books.authorization
        for name in ("currency", "out_trade_no"):
            said, known = getattr(row, name), getattr(hold, name)
            if said not in (None, known):
                raise IdempotencyConflictError(
                    f"Authorization {hold.syssn} is registered with {name} {known}, not {said}.",
                    advice="Correct the row, or find out whose hold it is; nothing was sent.",
                    idempotency_key=row.idempotency_key,
                )

    async def _books(self, row: BatchRow) -> Books | None:
        ledger, account, syssn = self._client._ledger, self._client.account, row.syssn
        if row.operation is Operation.REFUND:
            capture = await ledger.movement(account, syssn)
            if capture is None:
                return None
            syssn = capture.authorization
        return await ledger.books(account, syssn)

    # ------------------------------------------------------------------ what did not go well

    async def _failed(self, turn: Turn, error: PreauthError) -> BatchOutcome | Later:
        row, line = turn.row, turn.line
        if isinstance(error, RateLimitedError):
            return _limited(turn, error)
        called_off = isinstance(error, NotSentError) and error.outcome is not Outcome.NOTHING_HAPPENED
        if not called_off and not isinstance(error, OperationInProgressError):
            outcome = failed(row, line, error)
            again = isinstance(error, NotSentError) and turn.tried < NOT_SENT_MAX
            return Later(outcome, _LOOK_FIRST_S * 4 ** (turn.tried + 1)) if again else outcome
        try:
            entry = await self._client.entry(row.idempotency_key)
            wait_s = None if called_off else await self._in_the_way_s(row)
        except PreauthError as unread:
            return failed(row, line, unread, RowOutcome.IN_DOUBT)
        outcome = _called_off(turn, entry, error) if called_off else _by_the_books(turn, entry, error)
        if wait_s is None or turn.tried >= WAITS_MAX:
            return outcome
        return Later(outcome, min(wait_s, _LOOK_FIRST_S * 2**turn.tried, _LOOK_MAX_S))

    async def _in_the_way_s(self, row: BatchRow) -> float | None:
        """Whether it is worth waiting for what is in the way: the seconds until it ends, or counts as in doubt.

        None: nothing there will end by itself.
        """
        books = await self._books(row)
        now = self._client._clock.now()
        held = [entry for entry in (books.unresolved if books else ()) if not entry.doubtful(now)]
        if books is not None and not books.unresolved:
            return 0.01  # it has just ended
        return max(((entry.doubt_at - now).total_seconds() + 0.01 for entry in held), default=None)


def _limited(turn: Turn, error: RateLimitedError) -> BatchOutcome | Later:
    """Try again where the wait is the budget's: the turnstile lets it through when there is room."""
    outcome = failed(turn.row, turn.line, error)
    if turn.tried >= (LIMITED_MAX if error.code else WAITS_MAX):
        return outcome
    return Later(outcome, max(error.retry_after_s or 0.0, 0.05))


def _called_off(turn: Turn, entry: Entry | None, error: PreauthError) -> BatchOutcome:
    """The outcome of a row that was called off, which an own entry in doubt may know better: it was sent before."""
    if entry is not None and entry.unresolved:
        try:
            _outcomes.result_of(entry, replayed=False)
        except PreauthError as unknown:
            error = unknown
    return _by_the_books(turn, entry, error)


def _by_the_books(turn: Turn, entry: Entry | None, error: PreauthError) -> BatchOutcome:
    """The outcome of a row that was called off, or found something in its way: what its own entry says, if any."""
    row, line = turn.row, turn.line
    if entry is None or (entry.operation, entry.syssn) != (row.operation, row.syssn):
        return failed(row, line, error, RowOutcome.NOT_SENT)
    if entry.state is State.EXECUTED:
        return ended(row, line, _outcomes.result_of(entry, replayed=False))
    if entry.state is State.NOT_EXECUTED:
        return failed(row, line, error, RowOutcome.NOT_SENT)
    # its own entry is held, perhaps by another process, or in doubt
    return failed(row, line, error, RowOutcome.IN_DOUBT)


class Tellers:
    """Where rows come in: which teller a row's account means, and what cannot be read."""

    def __init__(self, tellers: Mapping[str | None, Teller]) -> None:
        self._tellers = tellers

    def read(self, given: object, number: int) -> Turn | BatchOutcome:
        """A turn for the row, or its `invalid` outcome."""
        row = given if isinstance(given, BatchOutcome) else read_row(given, number)
        if isinstance(row, BatchOutcome):
            return row  # also what whoever read a file has found to be no row
        line = number if row.line is None else row.line
        teller = self._tellers.get(row.account)
        if teller is None:
            problem = RowProblem("account", self._unknown(row.account))
            return BatchOutcome(line, RowOutcome.INVALID, row, problems=(problem,), given=given)
        return Turn(row, line, teller, teller.perform)

    def _unknown(self, account: str | None) -> str:
        known = ", ".join(sorted(name for name in self._tellers if name is not None))
        return f"must be one of {known}, not {shown(account)}"


def run_batch(
    tellers: Mapping[str | None, Teller],
    rows: Iterable[object] | AsyncIterable[object],
    concurrency: int,
    stop: asyncio.Event | None,
) -> AsyncGenerator[BatchOutcome, None]:
    """The outcomes of `rows`: see `PreauthClient.capture_many`."""
    each = list(dict.fromkeys(tellers.values()))

    def call_off() -> None:
        for teller in each:
            teller.call_off()

    async def prepare() -> None:
        for teller in each:
            await teller.look_first()

    batch = Batch(
        rows,
        Tellers(tellers).read,
        concurrency=concurrency,
        accounts=len(each),
        call_off=call_off,
        adopt=each[0].adopt,
    )
    return batch.outcomes(prepare, stop)
