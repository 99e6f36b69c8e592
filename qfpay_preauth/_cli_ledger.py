"""`ledger migrate`, `ledger copy`, `ledger recover`: where the books are kept."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

from attrs import frozen
from cyclopts import App, Parameter

from qfpay_preauth._cli_doubts import code_of_report, report_lines
from qfpay_preauth._cli_screen import EXIT_DOUBT, EXIT_OK, Screen, UsageError, confirm, emit_json, plain, shown
from qfpay_preauth._cli_session import DEFAULTS, Json, Moment, Options, Session, Yes, opened, profile_of
from qfpay_preauth._profile import load_profile
from qfpay_preauth._recover import RecoverReport
from qfpay_preauth._settings import gateway_url
from qfpay_preauth.ledger import ledger_from
from qfpay_preauth.ledger._copy import copy_ledger
from qfpay_preauth.ledger.sqlite import SqliteLedger

app = App(name="ledger", help="Where the books are kept: make or update a schema, move them, mend a restored one.")

Url = Annotated[str, Parameter(help='"sqlite:///path" or "postgresql://…"; a password is better in PGPASSWORD.')]
TheEnvironment = Annotated[
    str | None, Parameter(help="Whose books they are; without it, QFPAY_ENVIRONMENT's, else sandbox.")
]


@app.command
def migrate(
    *,
    ledger: Annotated[str | None, Parameter(help="Its URL; without it, the profile's.")] = None,
    environment: TheEnvironment = None,
    options: Options = DEFAULTS,
) -> int:
    """Make the schema of a PostgreSQL ledger, or bring it up to date. Run it once before the first client, and after
    each update of this library. A SQLite file needs none: it is made, and brought up to date, when it is opened.

    Example: `qfpay-preauth ledger migrate --ledger postgresql://shop@db/shop --environment production`
    """
    place = _place(ledger, environment, options)
    if place.ledger.startswith("sqlite:"):
        raise UsageError("A SQLite ledger needs no migration: it is made, and brought up to date, when it is opened.")
    applied = asyncio.run(_migrate(place))
    said = f"Applied: {', '.join(applied)}." if applied else "It is up to date: nothing was applied."
    _show({"applied": applied}, [said], json=options.json)
    return EXIT_OK


@app.command
def copy(
    source: Url, target: Url, /, *, environment: TheEnvironment = None, yes: Yes = False, json: Json = False
) -> int:
    """Move the books, with all their history, and verify every row. Stop everything that uses them first.

    The target must be new: a SQLite file that is not there yet, or a schema just made by `ledger migrate`. The source
    is closed for good: whoever still uses it is told where it went. While anybody writes, nothing is moved.

    Example: `qfpay-preauth ledger copy sqlite:///ledger.db postgresql://shop@db/shop`
    """
    where = _environment(environment)
    confirm(f"Move the {where} books, after which the source cannot be used any more", yes=yes)
    report = asyncio.run(copy_ledger(source, target, where))
    lines = [f"  {count:>9}  {table}" for table, count in report.rows.items()]
    _show(report, [f"Moved {report.source} to {report.target}, every row verified:", *lines], json=json)
    return EXIT_OK


@app.command
def recover(*, since: Moment | None = None, options: Options = DEFAULTS) -> int:
    """After an older backup was restored, and before anything else uses it: bring in what the gateway did since.

    It sends enquiries only. The keys of what was done since are lost: compare what it lists before the jobs of that
    time run again. Exit code 4 if doubts are left or a hold could not be imported; 3 if the books differ.

    Example: `qfpay-preauth ledger recover --since 2026-11-20T00:00:00+08:00`

    Args:
        since: From when on; without it, the ledger's last comparison.
    """

    async def work() -> int:
        codes = [EXIT_OK]
        async with opened(profile_of(options), options) as session:
            for name, client in session.chosen().items():
                report = await client.recover(since)
                session.show(report, *_recovered(session, name, report), account=name)
                codes.append(EXIT_DOUBT if report.not_imported else code_of_report(report.report))
        return max(codes)

    return asyncio.run(work())


@frozen
class _Place:
    ledger: str
    environment: str


def _place(ledger: str | None, environment: str | None, options: Options) -> _Place:
    if options.profile is not None:
        if ledger is not None:
            raise UsageError("Give either --ledger or --profile.")
        profile = load_profile(options.profile, os.environ)
        return _Place(profile.ledger, environment or profile.environment)
    ledger = ledger or os.environ.get("QFPAY_LEDGER")
    if not ledger:
        raise UsageError("Give --ledger URL (or --profile NAME, or set QFPAY_LEDGER).")
    return _Place(ledger, _environment(environment))


def _environment(given: str | None) -> str:
    name = given or os.environ.get("QFPAY_ENVIRONMENT") or "sandbox"
    gateway_url(name, None)  # only whether there is such an environment
    return name


async def _migrate(place: _Place) -> list[str]:
    ledger = ledger_from(place.ledger)
    if isinstance(ledger, SqliteLedger) or not hasattr(ledger, "migrate"):
        raise UsageError("Only a PostgreSQL ledger has a schema to migrate.")
    try:
        applied: list[str] = await ledger.migrate(place.environment)
    finally:
        await ledger.close()
    return applied


def _recovered(session: Session, name: str, report: RecoverReport) -> list[str]:
    lines = [
        f"Read from {report.since.isoformat(timespec='seconds')}: {len(report.imported)} holds were not known here."
    ]
    lines += [f"  imported {hold.syssn}: {session.money(hold.amount, hold.currency)}" for hold in report.imported]
    lines += [f"NOT IMPORTED {syssn}: {why}" for syssn, why in report.not_imported]
    return lines + report_lines(session, name, report.report)


def _show(value: object, lines: list[str], *, json: bool) -> None:
    if json:
        emit_json(plain(value))
        return
    screen = Screen(highlight=False)
    for line in lines:
        screen.print(shown(line), markup=False, highlight=False, soft_wrap=True)
