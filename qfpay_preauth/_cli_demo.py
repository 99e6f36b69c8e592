"""`demo` and `simulate`: what can be tried without an account."""

from __future__ import annotations

import asyncio
import logging
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators
from rich import box
from rich.table import Table
from rich.text import Text

from qfpay_preauth._cli_screen import EXIT_NO, EXIT_OK, Screen, UsageError, emit_json, plain
from qfpay_preauth._cli_session import Json
from qfpay_preauth._demo_books import Ending

if TYPE_CHECKING:
    from qfpay_preauth._demo import Report
    from qfpay_preauth._demo_books import Ended, Line

CURRENCY = "HKD"
DOUBTS_SHOWN = 10


def demo(
    *,
    seed: int = 1,
    captures: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=2_000))] = 200,
    fault_rate: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))] = 0.1,
    json: Json = False,
) -> int:
    """See the main job done: a busy hour against a simulated gateway that loses answers, then how every doubt that is
    left ends by evidence, and both sides' books.

    Nothing leaves this machine, and no account is needed.

    Example: `qfpay-preauth demo --seed 7 --fault-rate 0.3`

    Args:
        seed: The same seed gives the same run.
        captures: How many captures, four to a hold; at most 2,000.
        fault_rate: The share of operations that go wrong, 0 to 1.
    """
    from qfpay_preauth import _demo

    # each lost answer would be a warning: here they are the point, and listed at the end
    logging.getLogger("qfpay_preauth").addHandler(logging.NullHandler())
    console = Screen(highlight=False, quiet=json)
    console.say(
        f"Captures on customers' holds ({captures} in all), then refunds and unfreezes, go through the real client to "
        f"a simulated gateway that spoils {fault_rate:.0%} of them: lost answers, 429, 5xx, garbled, declined.\n",
    )
    with _progress(console, captures) as (advance, say), tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            _demo.demonstrate(
                Path(folder), seed=seed, captures=captures, fault_rate=fault_rate, advance=advance, say=say
            )
        )
    if json:
        emit_json({"ok": report.ok, **plain(report)})
    _show(console, report)
    return EXIT_OK if report.ok else EXIT_NO


@contextmanager
def _progress(console: Screen, total: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """What to call after each capture (a bar on a terminal, a line at each quarter elsewhere), and with each line that
    follows the last one."""
    if console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # no other command pays for it

        columns = (TextColumn("captures"), BarColumn(bar_width=50), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("captures", total=total)

            def say(line: str) -> None:
                progress.stop()
                console.say(line)

            yield lambda: progress.advance(task), say
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 4 // total > (done - 1) * 4 // total:
            console.print(f"{done} of {total} captures")

    yield advance, console.say


def _show(console: Screen, report: Report) -> None:
    console.print()
    console.show(_table(report))
    console.print()
    for check in report.checks:
        console.print("[red]BROKEN[/]" if check.broken else "[green]ok[/]    ", check.promise)
        for each in check.broken[:DOUBTS_SHOWN]:
            console.print(f"       {each}", style="red", markup=False)
    console.print()
    _show_doubts(console, report.doubts)
    if not report.ok:
        console.say("The books do NOT agree: that is a defect of this library. Report it with the seed.", "red")
    elif any(each.ending is Ending.LEFT for each in report.doubts):
        console.say("So nobody paid twice: what the two books differ by is in doubt, claimed, and never sent again.")
    else:
        console.say("So nobody paid twice, and both books agree.")


def _table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(f"{CURRENCY}, holds: {report.holds}", min_width=16, no_wrap=True)
    for heading in ("was in doubt", "our books", "the gateway's", "difference"):
        table.add_column(heading, justify="right", min_width=11, no_wrap=True)
    for line in report.lines:
        table.add_row(*_cells(line))
    table.add_section()
    table.add_row("requests", "-", f"{report.attempts} sent", f"{report.requests} arrived", _more_requests(report))
    tally = report.tally
    for name, refused, arrived in (
        ("over-captures", tally.over_captures_refused, report.over_captures_arrived),
        ("second unfreezes", tally.unfreezes_again_refused, report.unfreezes_again_arrived),
    ):
        table.add_row(name, "-", f"{refused} refused", f"{arrived} arrived", "-")
    return table


def _more_requests(report: Report) -> str:
    more = report.requests - report.attempts
    return f"{more} after 429" if more and more == report.limited else f"{more:+d}" if more else "-"


def _cells(line: Line) -> tuple[str, ...]:
    more = line.theirs - line.ours
    signed = f"+{_money(more)}" if more > 0 else _money(more)
    return line.name, _money(line.was_in_doubt), _money(line.ours), _money(line.theirs), signed


def _money(minor: int) -> str:
    return f"{minor / 100:,.2f}" if minor else "-"


def _show_doubts(console: Screen, doubts: Sequence[Ended]) -> None:
    if not doubts:
        console.say("Nothing was in doubt.\n")
        return
    console.say(f"Doubts: {len(doubts)}. How they ended:")
    for ending in Ending:
        if count := sum(each.ending is ending for each in doubts):
            console.say(f"{count:>4} {ending.value}")
    console.print()
    # what a person has to do comes first
    first = sorted(doubts, key=lambda each: each.ending is not Ending.LEFT)[:DOUBTS_SHOWN]
    console.say(f"The first {len(first)}: all that we saw of each when its answer was due, and how it ended:")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for each in first:
        saw = Text(_SAID.split(each.saw)[0])
        saw.truncate(24, overflow="ellipsis")
        table.add_row(f"  {each.idempotency_key}", _money(each.amount), saw, _SHORT[each.ending])
    console.show(table)
    console.print()
    _show_left(console, [each for each in doubts if each.ending is Ending.LEFT])


def _show_left(console: Screen, left: Sequence[Ended]) -> None:
    if not left:
        return
    console.say(f"Left for a person: {len(left)}. Why:")
    for each in left[:DOUBTS_SHOWN]:
        console.say(f"  {each.idempotency_key}: {each.reason}")
    console.print()
    console.say(
        "What to do: look each up at the gateway (query() or the merchant portal), then record what you found: "
        "resolve(key, Outcome.HAPPENED or Outcome.NOTHING_HAPPENED, reason=...). Calling again with the same key is "
        "safe at any time.\n",
    )


_SHORT = {
    Ending.NOTIFIED: "executed: notification",
    Ending.FOUND: "executed: enquiry",
    Ending.REFUSED: "refused: enquiry",
    Ending.ABSENT: "not sent: absent",
    Ending.LEFT: "left for a person",
}
_SAID = re.compile(r":| says nothing sure| leaves the outcome open")  # of what was seen, its name is enough


def simulate(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65_535))] = 8790,
    app_code: str = "SIMULATED_APP_CODE",
    client_key: str = "SIMULATED_CLIENT_KEY",
    mchid: str | None = None,
    sign_answers: bool = False,
    rate_limit: bool = False,
    json: Json = False,
) -> int:
    """Run the simulated gateway until Ctrl-C, for a client in any language.

    Example: `qfpay-preauth simulate --port 8790 --mchid ZaMVg12345`

    Args:
        host: Address to listen on; anybody who reaches it can order holds and faults.
        port: Port to listen on; 0 takes a free one.
        app_code: The accepted app code; made up.
        client_key: The accepted client key; made up: never a real one.
        mchid: The merchant id that requests must carry; without it they must carry none.
        sign_answers: Put X-QF-SIGN on answers.
        rate_limit: Answer 429 above 100 requests a second or 400 a minute.
    """
    from qfpay_preauth.testing import Config, serve

    config = Config(
        app_code=app_code, client_key=client_key, mchid=mchid, sign_answers=sign_answers, rate_limit=rate_limit
    )
    write = _names_only() if json else _greeting()
    try:
        asyncio.run(serve(host, port, config=config, write=write))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"Cannot listen on {host}:{port} ({error.strerror or error}): give another --port.") from error
    return EXIT_OK


def _greeting() -> Callable[[str], None]:
    """What writes each line that the simulator says, with a sentence before its calls."""
    said: list[str] = []

    def write(line: str) -> None:
        if line.startswith("curl") and not any(each.startswith("curl") for each in said):
            print("\nPlace a hold, see the books, order or clear faults, act in the portal, be notified, settle:")
        said.append(line)
        print(line, flush=True)

    print("A simulated QFPay gateway. Ctrl-C ends it.\n")
    return write


def _names_only() -> Callable[[str], None]:
    """One object with the url and the made-up credentials, once all of them were said."""
    named: dict[str, str] = {}

    def write(line: str) -> None:
        name, _, value = line.partition(" ")
        if name in ("url", "app_code", "client_key", "mchid"):
            named[name] = value.strip()
            if name == "mchid":
                emit_json({**named, "mchid": None if value.strip().startswith("(") else value.strip()})

    return write
