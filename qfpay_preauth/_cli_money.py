"""`capture`, `unfreeze`, `refund`: the commands that move money. They ask first in production."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from attrs import frozen
from cyclopts import Parameter

from qfpay_preauth._cli_errors import look_up
from qfpay_preauth._cli_screen import (
    EXIT_DOUBT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    confirm_money,
    emit_json_aside,
    fail,
    hush_stdout,
    say_aside,
)
from qfpay_preauth._cli_session import DEFAULTS, Amount, Options, Session, Yes, account_of, opened, profile_of
from qfpay_preauth._client import PreauthClient
from qfpay_preauth._models import Entry, Operation, Result, State, Why
from qfpay_preauth._outcomes import result_of
from qfpay_preauth._profile import Profile
from qfpay_preauth.errors import Outcome, UnknownCaptureError

Key = Annotated[
    str,
    Parameter(
        name=["--idempotency-key", "-k"],
        help="Your name for this business intent (order-17/parcel-1): the same on every retry, never fresh per call.",
    ),
]
Deadline = Annotated[float | None, Parameter(help="Seconds for the whole command; default: the setting.")]
Patience = Annotated[float | None, Parameter(help="Seconds to look for evidence if the answer is lost.")]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_DONE = {
    Operation.CAPTURE: "Captured {money} of hold {of}: capture {own}",
    Operation.UNFREEZE: "Unfroze {money}, all that was left of hold {of}: unfreeze {own}",
    Operation.REFUND: "Refunded {money} of capture {of}: refund {own}",
}


@frozen
class Deed:
    """What is to be done, as it was given."""

    operation: Operation
    syssn: str
    amount: int | None
    idempotency_key: str
    deadline_s: float | None
    patience_s: float | None

    async def run(self, client: PreauthClient) -> Result:
        """Do it, once, or say why not."""
        timing = {"deadline_s": self.deadline_s, "patience_s": self.patience_s}
        if self.operation is Operation.UNFREEZE:
            return await client.unfreeze(self.syssn, self.amount, idempotency_key=self.idempotency_key, **timing)
        assert self.amount is not None  # noqa: S101 - the command lines of the other two demand it
        method = client.capture if self.operation is Operation.CAPTURE else client.refund
        return await method(self.syssn, self.amount, idempotency_key=self.idempotency_key, **timing)


def capture(
    syssn: str,
    amount: Amount,
    /,
    *,
    idempotency_key: Key,
    yes: Yes = False,
    deadline_s: Deadline = None,
    patience_s: Patience = None,
    options: Options = DEFAULTS,
) -> int:
    """Take part or all of a hold.

    Run again with the same key it moves nothing twice: it replays what was done, or looks for evidence.

    Example: `qfpay-preauth capture 20260101180500020000014079 20000 --idempotency-key order-17/parcel-1`

    Args:
        syssn: The authorization's (the hold's) id.
        amount: Minor units (20000 is HKD 200.00); all captures together never exceed the hold.
    """
    return _move(Deed(Operation.CAPTURE, syssn, amount, idempotency_key, deadline_s, patience_s), options, yes=yes)


def unfreeze(
    syssn: str,
    amount: Amount | None = None,
    /,
    *,
    idempotency_key: Key,
    yes: Yes = False,
    deadline_s: Deadline = None,
    patience_s: Patience = None,
    options: Options = DEFAULTS,
) -> int:
    """Release exactly what was not captured of a hold, once, for good.

    Example: `qfpay-preauth unfreeze 20260101180500020000014079 --idempotency-key order-17/close`

    Args:
        syssn: The authorization's (the hold's) id.
        amount: Minor units; if given, it must equal what is left: a check against a stale view.
    """
    return _move(Deed(Operation.UNFREEZE, syssn, amount, idempotency_key, deadline_s, patience_s), options, yes=yes)


def refund(
    capture_syssn: str,
    amount: Amount,
    /,
    *,
    idempotency_key: Key,
    yes: Yes = False,
    deadline_s: Deadline = None,
    patience_s: Patience = None,
    options: Options = DEFAULTS,
) -> int:
    """Give back part or all of a capture.

    Example: `qfpay-preauth refund 20260101180612020000014116 5000 --idempotency-key order-17/return-1`

    Args:
        capture_syssn: The capture's own id, as `capture` printed it; not the authorization's.
        amount: Minor units; all refunds together never exceed the capture.
    """
    return _move(
        Deed(Operation.REFUND, capture_syssn, amount, idempotency_key, deadline_s, patience_s), options, yes=yes
    )


# ------------------------------------------------------------------------------------------------ how it is done


def _move(deed: Deed, options: Options, *, yes: bool) -> int:
    profile = profile_of(options)
    account_of(profile, options)
    if profile.environment == "production" and not yes:
        confirm_money(profile.environment, asyncio.run(_question(profile, options, deed)), yes=False)
    return asyncio.run(_perform(profile, options, deed))


async def _question(profile: Profile, options: Options, deed: Deed) -> str:
    """The deed with its numbers, as the books have them."""
    async with opened(profile, options) as session:
        return await _described(session, deed)


async def _described(session: Session, deed: Deed) -> str:
    key = f"(key {deed.idempotency_key})"
    client, of, hold = session.client, f"hold {deed.syssn}", deed.syssn
    if deed.operation is Operation.REFUND:
        movement = await client.movement(deed.syssn)
        if movement is None:
            raise UnknownCaptureError(f"Capture {deed.syssn} is not in the ledger of account {client.account}.")
        of, hold = f"capture {deed.syssn}", movement.authorization
    books = await client.balance(hold)
    money = session.money(books.capturable if deed.amount is None else deed.amount, books.currency)
    left = f", of which {session.money(books.capturable, books.currency)} is left" if hold == deed.syssn else ""
    return f"{deed.operation.capitalize()} {money} of {of}{left} {key}"


async def _perform(profile: Profile, options: Options, deed: Deed) -> int:
    async with opened(profile, options) as session:
        client = session.client
        with _interruptible() as again:
            try:
                result = await deed.run(client)
            except asyncio.CancelledError:  # Ctrl-C
                wait_s = profile.settings.timeout_total_s
                say_aside(f"Interrupted: waiting at most {wait_s:g} s for what was sent (Ctrl-C again stops waiting).")
                await _drain(client, again)
                # the client is closed, its ledger is not
                entry = await client._ledger.entry(client.account, deed.idempotency_key)
                return _interrupted(session, deed, entry)
            return _tell(session, deed, result)


@contextmanager
def _interruptible() -> Iterator[asyncio.Event]:
    """The first Ctrl-C (or SIGTERM) cancels the current task, the second sets the event: neither ends the loop."""
    loop, task, again = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()
    count = itertools.count(1)

    def interrupt() -> None:
        if next(count) > 1:
            again.set()
        elif task is not None:
            task.cancel()

    try:
        for each in _SIGNALS:
            loop.add_signal_handler(each, interrupt)
    except NotImplementedError:  # Windows: asyncio cancels the task, and a second Ctrl-C ends the process
        yield again
        return
    try:
        yield again
    finally:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)


async def _drain(client: PreauthClient, again: asyncio.Event) -> None:
    """Close the client: what was sent gets its answer, or, once `again` is set, is given up as in doubt."""
    closing, told = asyncio.create_task(client.aclose()), asyncio.create_task(again.wait())
    await asyncio.wait((closing, told), return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if not closing.done():
        closing.cancel()
        await asyncio.wait((closing,))
        await client.aclose(drain_s=0)


def _tell(session: Session, deed: Deed, result: Result) -> int:
    """Print the result; a full disk or a reader that left must not look like a failure."""
    try:
        session.show(result, *_lines(session, deed.operation, result), operation=deed.operation)
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        hush_stdout()
        return fail(
            f"{_lines(session, deed.operation, result)[0]} It was done and recorded, but it could not be printed "
            f"({error.strerror or 'the reader left'}): run the same command again to see it.",
            EXIT_DOUBT,
        )
    return EXIT_OK


def _lines(session: Session, operation: Operation, result: Result) -> list[str]:
    money = session.money(result.amount, result.currency)
    done = _DONE[operation].format(money=money, of=result.orig_syssn, own=result.syssn or "(id not known)")
    return [
        f"{done} ({result.idempotency_key}).",
        *(["Replayed: it was done before, and nothing was sent."] if result.replayed else []),
        *([f"Confirmed by {result.confirmed_by}, not by its own answer."] if result.confirmed_by != "answer" else []),
    ]


# ------------------------------------------------------------------------------------------------ interrupted


def _interrupted(session: Session, deed: Deed, entry: Entry | None) -> int:
    outcome, what, advice = _known(session, deed, entry)
    if session.options.json:
        emit_json_aside(
            {
                "error": "Interrupted",
                "outcome": outcome,
                "message": what,
                "advice": advice,
                "idempotency_key": deed.idempotency_key,
                "entry": entry,
                "exit_code": EXIT_INTERRUPTED,
            }
        )
    else:
        say_aside(f"{what} {advice}")
    return EXIT_INTERRUPTED


def _known(session: Session, deed: Deed, entry: Entry | None) -> tuple[Outcome, str, str]:
    """What is known of the money, as the ledger has it."""
    again = "Run the same command again if it is still meant."
    if entry is None or (entry.state is State.NOT_EXECUTED and entry.why is Why.NOT_SENT):
        return Outcome.NOTHING_HAPPENED, "Nothing was sent: no money moved.", again
    if entry.state is State.EXECUTED:
        done = _lines(session, deed.operation, result_of(entry, replayed=False))[0]
        return Outcome.HAPPENED, f"It was done all the same. {done}", "Nothing is left to do."
    if entry.state is State.NOT_EXECUTED:
        why = entry.message or entry.reason or entry.detail
        return Outcome.NOTHING_HAPPENED, f"It was declined ({entry.code}: {why}): no money moved.", again
    seen = entry.detail or "no answer was recorded"
    return (
        Outcome.UNKNOWN,
        f"The outcome is unknown ({seen}): money may have moved, and the amount stays claimed.",
        f"Do not use another key. Run the same command again: it sends nothing and looks for evidence. "
        f"See: {look_up(deed.idempotency_key)}",
    )
