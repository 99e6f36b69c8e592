"""Doubts as people and machines see them, once or as they come and end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from qfpay_preauth._cli_errors import in_commands
from qfpay_preauth._cli_screen import plain, say_aside, shown
from qfpay_preauth._cli_session import Session
from qfpay_preauth._models import Doubt
from qfpay_preauth.errors import LedgerUnavailableError

Found = Sequence[tuple[str, Doubt]]
"""Account and doubt."""


async def gathered(session: Session) -> list[tuple[str, Doubt]]:
    """Every doubt of the chosen accounts, oldest first."""
    found = [(name, doubt) for name, client in session.chosen().items() async for doubt in client.in_doubt()]
    return sorted(found, key=lambda each: each[1].since)


def fields_of(doubt: Doubt) -> dict[str, object]:
    """A doubt for machines."""
    return {**plain(doubt), "advice": in_commands(doubt.advice)}


def age(seconds: float) -> str:
    """How long ago, in the two largest units."""
    whole = max(0, int(seconds))
    for unit, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "m", 60), ("m", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size}{unit} {whole % size // part}{smaller}"
    return f"{whole}s"


def lines_of(session: Session, account: str, doubt: Doubt) -> list[str]:
    """A doubt for people."""
    money = session.money(doubt.amount, doubt.currency)
    mark = "ATTENTION " if doubt.needs_attention else ""
    whose = f"  (account {account})" if len(session.clients) > 1 else ""
    return [
        f"{mark}{age(doubt.age_s)}  {doubt.operation} of {money} on {doubt.syssn}  {doubt.idempotency_key}{whose}",
        f"    tried  {doubt.tried}",
        f"    seen   {doubt.seen}",
        f"    to do  {in_commands(doubt.advice)}",
    ]


# ------------------------------------------------------------------------------------------------ watching


async def watch(session: Session, every_s: float) -> None:
    """Show the doubts until cancelled: a table kept up to date on a terminal, else lines as doubts come and end."""
    if session.screen.is_terminal and not session.options.json:
        await _watch_table(session, every_s)
    else:
        await _watch_lines(session, every_s)


async def _watch_table(session: Session, every_s: float) -> None:
    with Live(console=session.screen, auto_refresh=False, vertical_overflow="ellipsis") as live:
        found: Found = []
        while True:
            problem = ""
            try:
                found = await gathered(session)
            except LedgerUnavailableError as error:
                problem = f"the ledger cannot be read now, trying again: {error.args[0]}"
            live.update(_table(session, found, problem), refresh=True)
            await asyncio.sleep(every_s)


def _table(session: Session, found: Found, problem: str) -> Group:
    table = Table(box=None, pad_edge=False)
    for heading in ("age", "operation", "amount", "key", "on", "needs"):
        table.add_column(heading, overflow="fold")
    for _, doubt in found:
        table.add_row(
            age(doubt.age_s),
            doubt.operation.value,
            session.money(doubt.amount, doubt.currency),
            Text(shown(doubt.idempotency_key)),
            Text(shown(doubt.syssn)),
            "a person" if doubt.needs_attention else "reconcile",
            style="bold" if doubt.needs_attention else "",
        )
    says = f"{len(found)} in doubt. Ctrl-C ends the watch; `doubts` and `events KEY` say more."
    return Group(*([table] if found else []), Text(says, "dim"), *([Text(shown(problem), "red")] if problem else []))


async def _watch_lines(session: Session, every_s: float) -> None:
    before: dict[tuple[str, str], Doubt] = {}
    problem = ""
    session.note("Watching for doubts; Ctrl-C ends it.")
    while True:
        try:
            before, problem = await _tell_changes(session, before), ""
        except LedgerUnavailableError as error:
            if error.args[0] != problem:
                problem = error.args[0]
                say_aside(f"the ledger cannot be read now, trying again: {problem}")
        await asyncio.sleep(every_s)


async def _tell_changes(session: Session, before: dict[tuple[str, str], Doubt]) -> dict[tuple[str, str], Doubt]:
    now = {(name, doubt.idempotency_key): doubt for name, doubt in await gathered(session)}
    for (name, key), doubt in now.items():
        known = before.get((name, key))
        if known is None or known.seen != doubt.seen:
            session.show(fields_of(doubt), *lines_of(session, name, doubt), event="in_doubt", account=name)
    for name, key in before:
        if (name, key) not in now:
            await _tell_end(session, name, key)
    return now


async def _tell_end(session: Session, name: str, key: str) -> None:
    entry = await session.clients[name].entry(key)
    if entry is not None:
        word = entry.state.value.replace("_", " ") + (f" ({entry.why})" if entry.why else "")
        session.show(
            {"state": entry.state, "why": entry.why}, f"{key}: {word}", event="ended", account=name, idempotency_key=key
        )
