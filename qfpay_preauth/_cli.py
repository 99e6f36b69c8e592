"""The command line: `demo`, `simulate`, `sign`, `verify`. Thin commands; what they know lives elsewhere.

Only `__main__` imports this module, because cyclopts and rich come with the extra `[cli]`.
"""

from __future__ import annotations

import asyncio
import getpass
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, CycloptsError, Parameter, validators
from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from qfpay_preauth import _explain
from qfpay_preauth._demo_books import Ending
from qfpay_preauth._signing import Signer
from qfpay_preauth.errors import PreauthError

if TYPE_CHECKING:
    from qfpay_preauth._demo import Report
    from qfpay_preauth._demo_books import Ended, Line

EXIT_OK, EXIT_NO, EXIT_USAGE = 0, 1, 2
KEY_VARIABLE = "QFPAY_CLIENT_KEY"
CURRENCY = "HKD"
DOUBTS_SHOWN = 10
PROSE_WIDTH = 80

SignType = Literal["SHA256", "MD5"]
Params = Annotated[str, Parameter(help="Parameters as name=value, not percent-encoded, exactly as they are sent.")]
KeyEnv = Annotated[str, Parameter(help="The NAME of the environment variable that holds the client key.")]


class UsageError(Exception):
    """The command cannot run as it was given; the text says what to do."""


def _version() -> str:
    try:
        return metadata.version("qfpay_preauth")
    except metadata.PackageNotFoundError:
        return "not installed: run from its source"


app = App(
    name="qfpay-preauth",
    version=_version,
    help=(
        "Capture, unfreeze and refund QFPay pre-authorisations, never taking the money twice.\n\n"
        "Example: `qfpay-preauth demo`\n\n"
        "Exit codes: 0 done, or the signature matches. 1 the demo's books do not agree, the signature does not match, "
        "or it could not be run to its end. 2 wrong usage, or the extra [cli] is missing. 130 interrupted."
    ),
    help_format="markdown",
)


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code. Every expected error is one line that says what to do next."""
    try:
        code = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _fail(f"{str(error).strip()} See: qfpay-preauth {' '.join(error.command_chain or ())} --help")
    except UsageError as error:
        return _fail(str(error))
    except PreauthError as error:
        return _fail(str(error), EXIT_NO)
    except BrokenPipeError:
        raise
    except OSError as error:
        return _fail(f"The system refused: {error}. Check the temporary folder and the free space.", EXIT_NO)
    return code if isinstance(code, int) else EXIT_OK


class _Screen(Console):
    """A console whose broken pipe is an error like others (rich would leave from inside a task)."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError

    def show(self, renderable: RenderableType, width: int | None = None) -> None:
        """Print, without the blanks that rich pads lines with."""
        for line in self.render_lines(renderable, self.options.update(width=width or self.width), pad=False):
            text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
            text.rstrip()
            self.print(text, soft_wrap=True)


def _fail(text: str, code: int = EXIT_USAGE) -> int:
    sys.stderr.write(" ".join(text.split()) + "\n")
    return code


# ------------------------------------------------------------------------------------------------ demo


@app.command
def demo(
    *,
    seed: int = 1,
    captures: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=2_000))] = 200,
    fault_rate: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))] = 0.1,
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
    console = _Screen(highlight=False)
    _say(
        console,
        f"Captures on customers' holds ({captures} in all), then refunds and unfreezes, go through the real client to "
        f"a simulated gateway that spoils {fault_rate:.0%} of them: lost answers, 429, 5xx, garbled, declined.\n",
    )
    with _progress(console, captures) as (advance, say), tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            _demo.demonstrate(
                Path(folder), seed=seed, captures=captures, fault_rate=fault_rate, advance=advance, say=say
            )
        )
    _show(console, report)
    return EXIT_OK if report.ok else EXIT_NO


@contextmanager
def _progress(console: _Screen, total: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """What to call after each capture (a bar on a terminal, a line at each quarter elsewhere), and with each line that
    follows the last one."""
    if console.is_terminal:
        columns = (TextColumn("captures"), BarColumn(bar_width=50), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("captures", total=total)

            def say(line: str) -> None:
                progress.stop()
                _say(console, line)

            yield lambda: progress.advance(task), say
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 4 // total > (done - 1) * 4 // total:
            console.print(f"{done} of {total} captures")

    yield advance, lambda line: _say(console, line)


def _say(console: _Screen, text: str, style: str = "") -> None:
    console.show(Text(text, style), min(console.width, PROSE_WIDTH))


def _show(console: _Screen, report: Report) -> None:
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
        _say(console, "The books do NOT agree: that is a defect of this library. Report it with the seed.", "red")
    elif any(each.ending is Ending.LEFT for each in report.doubts):
        _say(console, "So nobody paid twice: what the two books differ by is in doubt, claimed, and never sent again.")
    else:
        _say(console, "So nobody paid twice, and both books agree.")


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


def _show_doubts(console: _Screen, doubts: Sequence[Ended]) -> None:
    if not doubts:
        _say(console, "Nothing was in doubt.\n")
        return
    _say(console, f"Doubts: {len(doubts)}. How they ended:")
    for ending in Ending:
        if count := sum(each.ending is ending for each in doubts):
            _say(console, f"{count:>4} {ending.value}")
    console.print()
    # what a person has to do comes first
    first = sorted(doubts, key=lambda each: each.ending is not Ending.LEFT)[:DOUBTS_SHOWN]
    _say(console, f"The first {len(first)}: all that we saw of each when its answer was due, and how it ended:")
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


def _show_left(console: _Screen, left: Sequence[Ended]) -> None:
    if not left:
        return
    _say(console, f"Left for a person: {len(left)}. Why:")
    for each in left[:DOUBTS_SHOWN]:
        _say(console, f"  {each.idempotency_key}: {each.reason}")
    console.print()
    _say(
        console,
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


# ------------------------------------------------------------------------------------------------ simulate


@app.command
def simulate(
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65_535))] = 8790,
    app_code: str = "SIMULATED_APP_CODE",
    client_key: str = "SIMULATED_CLIENT_KEY",
    mchid: str | None = None,
    sign_answers: bool = False,
    rate_limit: bool = False,
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
    said: list[str] = []

    def write(line: str) -> None:
        if line.startswith("curl") and not any(each.startswith("curl") for each in said):
            print("\nPlace a hold, see the books, order or clear faults, act in the portal, be notified, settle:")
        said.append(line)
        print(line, flush=True)

    print("A simulated QFPay gateway. Ctrl-C ends it.\n")
    try:
        asyncio.run(serve(host, port, config=config, write=write))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"Cannot listen on {host}:{port} ({error.strerror or error}): give another --port.") from error
    return EXIT_OK


# ------------------------------------------------------------------------------------------------ sign, verify


@app.command
def sign(*params: Params, sign_type: SignType = "SHA256", key_env: KeyEnv = KEY_VARIABLE) -> int:
    """Show how a request is signed: the signing string with the key masked, and the signature.

    The key comes from an environment variable or a hidden prompt, never from the command line.

    Example: `qfpay-preauth sign txamt=100 txcurrcd=HKD mchid=ZaMVg12345`

    Args:
        sign_type: The hash, as X-QF-SIGNTYPE names it.
    """
    pairs = _pairs(params)
    key = _key(key_env)
    if key != key.strip():
        raise UsageError("The key has blanks around it: set it exactly as QFPay gave it.")
    fields = dict(pairs)
    _line("signing string", _explain.masked(fields, key))
    _line("algorithm", sign_type)
    _line("signature", Signer(key, sign_type).sign(fields))
    _line("headers", "X-QF-APPCODE, X-QF-SIGN" + (", X-QF-SIGNTYPE: SHA256" if sign_type == "SHA256" else ""))
    empty = ", ".join(name for name, value in pairs if not value)
    if empty:
        _line("note", f"{empty}: empty. This library never sends an empty parameter; leave it out.")
    return EXIT_OK


@app.command
def verify(
    signature: Annotated[str, Parameter(help="The signature as sent in X-QF-SIGN; lower-case hex is fine.")],
    /,
    *params: Params,
    sign_type: SignType | None = None,
    body: Path | None = None,
    key_env: KeyEnv = KEY_VARIABLE,
) -> int:
    """Say whether a signature fits, and if not, which mistake made it: the way out of code 1108.

    The key comes from an environment variable or a hidden prompt, never from the command line.

    Example: `qfpay-preauth verify 99D9F717...BB3D74E8 txamt=100 txcurrcd=HKD mchid=ZaMVg12345`

    Args:
        sign_type: What X-QF-SIGNTYPE said; by default judged by the signature's length.
        body: File with a notification's raw body, verified instead of parameters.
    """
    if body is not None:
        if params or sign_type:
            raise UsageError("A body is signed as a whole, with MD5: leave parameters and --sign-type out.")
        finding = _explain.explain_body(_read(body), _key(key_env), signature)
        return _tell(finding)
    pairs = _pairs(params)
    key = _key(key_env)
    code = _tell(_explain.explain(pairs, key, _text(signature), sign_type))
    if code != EXIT_OK:
        _line("signing string", _explain.masked(dict(pairs), key.strip()))
    return code


def _tell(finding: _explain.Finding) -> int:
    print(_shown(finding.summary))
    for note in finding.notes:
        _line("note", note)
    if finding.matches:
        return EXIT_OK
    for fix in finding.fixes:
        _line("to do", fix)
    for where in finding.check_next:
        _line("check next", where)
    _line("on the wire", "QFPay answers a request that is signed wrongly with code 1108.")
    _line("this key gives", finding.expected)
    return EXIT_NO


def _line(name: str, text: str) -> None:
    print(f"{name:<17}{_shown(text)}")


def _shown(text: str) -> str:
    """Printable: what could move the cursor or colour the terminal is escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _pairs(params: Sequence[str]) -> list[tuple[str, str]]:
    if not params:
        raise UsageError("No parameters: give each as name=value, for example txamt=100.")
    pairs = []
    for number, each in enumerate(params, 1):
        name, equals, value = _text(each).partition("=")
        if not name or not equals:
            # not shown: somebody may have typed the key
            raise UsageError(f"Parameter {number} is not name=value, for example txamt=100.")
        pairs.append((name, value))
    twice = sorted({name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1})
    if twice:
        raise UsageError(f"Given twice: {', '.join(twice)}. A name may be sent only once.")
    return pairs


def _text(argument: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError as error:
        raise UsageError("An argument is not UTF-8: QFPay signs and sends UTF-8 only.") from error
    return argument


def _key(variable: str) -> str:
    key = os.environ.get(variable, "")
    if not key.strip() and sys.stdin.isatty():
        try:
            key = getpass.getpass("Client key (hidden): ")
        except EOFError:
            key = ""
    if not key.strip():
        # a wrong name is not repeated: somebody may have typed the key itself
        named = variable if variable == KEY_VARIABLE else "the variable that --key-env names"
        raise UsageError(f"No client key: set {named}. The key is never taken from the command line.")
    return _text(key)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"Cannot read {path} ({error.strerror}): give --body a file with the raw body.") from error
