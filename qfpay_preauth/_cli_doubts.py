"""`doubts`, `events`, `resolve`, `reconcile`: what is not known, its history, and its end."""

from __future__ import annotations

import asyncio
from typing import Annotated

from cyclopts import Parameter

from qfpay_preauth._cli_errors import in_commands
from qfpay_preauth._cli_screen import (
    EXIT_DOUBT,
    EXIT_NO,
    EXIT_OK,
    EXIT_REFUSED,
    FailedError,
    UsageError,
    confirm,
)
from qfpay_preauth._cli_session import DEFAULTS, Options, Session, Yes, account_of, opened, profile_of
from qfpay_preauth._cli_watch import fields_of, gathered, lines_of, watch
from qfpay_preauth._models import Entry, Event, ReconcileReport, State
from qfpay_preauth._profile import Profile
from qfpay_preauth.errors import Outcome

Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
TheKey = Annotated[str, Parameter(help="The idempotency key of the entry.")]


def doubts(
    *, watch_: Annotated[Flag, Parameter(name="--watch")] = False, every_s: float = 5.0, options: Options = DEFAULTS
) -> int:
    """List every operation whose outcome is not known, oldest first. Exit code 4 if there are any.

    Example: `qfpay-preauth doubts --watch`

    Args:
        watch_: Stay and show them as they come and end, until Ctrl-C. It only reads the ledger.
        every_s: Seconds between two looks.
    """

    async def work() -> int:
        async with opened(profile_of(options), options) as session:
            if watch_:
                await watch(session, every_s)
            found = await gathered(session)
            for name, doubt in found:
                session.show(fields_of(doubt), *lines_of(session, name, doubt), account=name)
            session.note(f"{len(found)} in doubt." if found else "Nothing is in doubt.")
            return EXIT_DOUBT if found else EXIT_OK

    if not 0.1 <= every_s <= 86_400:
        raise UsageError("--every-s must be from 0.1 to 86400 seconds.")
    return asyncio.run(work())


# ------------------------------------------------------------------------------------------------ one entry


def events(key: TheKey, /, *, options: Options = DEFAULTS) -> int:
    """Show one entry and its whole history. Exit code 4 while its outcome is not known.

    Example: `qfpay-preauth events order-17/parcel-1`
    """

    async def work() -> int:
        profile = profile_of(options)
        account_of(profile, options)
        async with opened(profile, options) as session:
            entry = await _entry(session, key)
            history = await session.client.history(key)
            session.show({"entry": entry, "events": history}, *_entry_lines(session, entry), *map(_event_line, history))
            return EXIT_DOUBT if entry.unresolved else EXIT_OK

    return asyncio.run(work())


async def _entry(session: Session, key: str) -> Entry:
    entry = await session.client.entry(key)
    if entry is None:
        raise FailedError(
            f"There is no entry under key {key!r} in account {session.client.account}: under it nothing was ever "
            "written or sent. Check the key, --account and the ledger."
        )
    return entry


def _entry_lines(session: Session, entry: Entry) -> list[str]:
    money = session.money(entry.amount, entry.currency)
    said = [entry.code, entry.message, entry.detail, entry.reason]
    state = entry.state.value.replace("_", " ") + (f" ({entry.why})" if entry.why else "")
    lines = [
        f"{entry.idempotency_key}: {entry.operation} of {money} on {entry.syssn}",
        f"state      {state}, attempt {entry.attempt}",
    ]
    if entry.result_syssn:
        lines.append(f"syssn      {entry.result_syssn}")
    if any(said):
        lines.append(f"said       {'; '.join(each for each in said if each)}")
    if entry.confirmed_by:
        lines.append(f"confirmed  by {entry.confirmed_by}")
    if entry.attention:
        lines.append(f"attention  {entry.attention}")
    return lines


def _event_line(event: Event) -> str:
    move = f"{event.from_state or 'new'} -> {event.to_state}" if event.to_state else event.kind
    return f"  {event.at.isoformat(timespec='milliseconds')}  {move}{f'  {event.detail}' if event.detail else ''}"


def resolve(
    key: TheKey,
    /,
    *,
    executed: Flag = False,
    not_executed: Flag = False,
    reason: str,
    syssn: str | None = None,
    yes: Yes = False,
    options: Options = DEFAULTS,
) -> int:
    """Record what a person found out about an entry in doubt. It asks first; it can never be undone.

    Look it up at the gateway first (`query`, or the merchant portal). Evidence that later disagrees is a discrepancy.

    Example: `qfpay-preauth resolve order-17/parcel-1 --executed --reason "seen in the portal" --syssn 20260101180612…`

    Args:
        executed: It happened: the money moved.
        not_executed: It did not happen: the amount is free again.
        reason: Why, for those who come after.
        syssn: The operation's own id, with --executed (a later refund of a capture needs it).
    """
    if executed is not_executed:
        raise UsageError("Say either --executed or --not-executed.")
    profile = profile_of(options)
    account_of(profile, options)
    asyncio.run(_show_entry(profile, options, key))
    word = "EXECUTED: the money moved" if executed else "NOT EXECUTED: no money moved, and the amount is free again"
    confirm(f"Record {key} as {word}", yes=yes)
    outcome = Outcome.HAPPENED if executed else Outcome.NOTHING_HAPPENED

    async def work() -> int:
        async with opened(profile, options) as session:
            entry = await session.client.resolve(key, outcome, reason=reason, syssn=syssn)
            session.show({"entry": entry}, f"Recorded: {key} is {entry.state.value.replace('_', ' ')}.")
            return EXIT_OK

    return asyncio.run(work())


async def _show_entry(profile: Profile, options: Options, key: str) -> None:
    async with opened(profile, options) as session:
        entry = await _entry(session, key)
        for line in _entry_lines(session, entry):
            session.note(line)


# ------------------------------------------------------------------------------------------------ the whole pass


def reconcile(*, options: Options = DEFAULTS) -> int:
    """Look for evidence about every doubt, and compare our books with the gateway's. It sends enquiries only.

    Exit codes: 4 if doubts are left; else 3 if the books differ; else 1 if the gateway could not be read as a whole.

    Example: `qfpay-preauth reconcile`
    """

    async def work() -> int:
        codes = [EXIT_OK]
        async with opened(profile_of(options), options) as session:
            for name, client in session.chosen().items():
                report = await client.reconcile()
                session.show(report, *report_lines(session, name, report), account=name)
                codes.append(code_of_report(report))
        return max(codes)

    return asyncio.run(work())


def code_of_report(report: ReconcileReport) -> int:
    """The exit code of a pass."""
    if report.in_doubt:
        return EXIT_DOUBT
    if report.discrepancies:
        return EXIT_REFUSED
    return EXIT_OK if report.complete else EXIT_NO


def report_lines(session: Session, account: str, report: ReconcileReport) -> list[str]:
    """A pass in words."""
    lines = [f"Account {account}:"] if len(session.clients) > 1 else []
    lines.append(f"{report.confirmed} executed operations confirmed, {len(report.ended)} doubts ended.")
    for entry in report.ended:
        how = "executed" if entry.state is State.EXECUTED else f"not executed ({entry.why})"
        lines.append(f"  {entry.idempotency_key}: {session.money(entry.amount, entry.currency)} {how}")
    for movement in report.foreign:
        what = f"{movement.kind} of {movement.amount} (minor units)"
        lines.append(f"  made elsewhere: {what} on {movement.authorization} ({movement.syssn})")
    for each in report.discrepancies:
        who = each.idempotency_key or each.syssn or each.authorization
        lines.append(f"DIFFERENCE {each.kind} {who}: ours {each.ours}; the gateway's {each.theirs}")
    if report.unexplained_notices:
        lines.append(f"{report.unexplained_notices} notifications fit nothing in the books so far.")
    if report.in_doubt:
        left = f"{report.in_doubt} still in doubt, {report.needs_attention} of them need a person"
        lines.append(f"{left}: `qfpay-preauth doubts` lists them.")
    if not report.complete:
        lines.append("The gateway could not be read as a whole: absence proves nothing. Run it again.")
    return [in_commands(line) for line in lines]
