"""Where a child stops dead: `arm("reserved:3")` kills it the third time it comes to that step.

The library is not touched: the child wraps, in its own process, what the step lies in.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from typing import Any

from qfpay_preauth._line import Line
from qfpay_preauth._models import Answer
from qfpay_preauth._transport import Body, Transport
from qfpay_preauth.ledger import _sqlite_file, _writer
from qfpay_preauth.ledger._writer import Writer
from qfpay_preauth.ledger.sqlite import SqliteLedger

WORKING = (
    "reserving",
    "reserved",
    "handing",
    "handed",
    "answered",
    "concluding",
    "concluded",
    "written",
    "committed",
    "observing",
    "observed",
)
"""The steps of a working process, in their order; `written` and `committed` lie on both sides of a COMMIT."""

MAKING = ("filled", "linked")
"""The steps of making a new file."""

PAUSE = "pause at "
"""Before a step: the process stops there (SIGSTOP) until it is told to go on."""

Check = Callable[[Any], bool]


def arm(order: str) -> None:
    """Make this process kill (or stop) itself where `order` says; nothing if that names no step."""
    step, _, count = order.removeprefix(PAUSE).partition(":")
    if not count:
        return
    which = signal.SIGSTOP if order.startswith(PAUSE) else signal.SIGKILL
    left = int(count)

    def reached(name: str) -> None:
        nonlocal left
        left -= name == step
        if name == step and not left:
            os.kill(os.getpid(), which)

    _around(SqliteLedger, "reserve", reached, "reserving", "reserved", lambda reserved: reserved.fresh)
    _around(SqliteLedger, "conclude", reached, "concluding", "concluded")
    _around(SqliteLedger, "observe", reached, "observing", "observed")
    _before(Body, "hand_over", reached, "handing")
    _after(Line, "ask", reached, "handed")
    _around(Transport, "exchange", reached, "", "answered", lambda delivery: isinstance(delivery, Answer))
    _after(Writer, "_run_job", reached, "written")
    _before(_writer, "_deliver", reached, "committed")
    _after(_sqlite_file, "_fill", reached, "filled")
    _before(_sqlite_file, "_sync_folder", reached, "linked")


def _around(  # noqa: PLR0917 - whom, what, and the two steps
    owner: Any, name: str, reached: Callable[[str], None], before: str, after: str, counts: Check = lambda _: True
) -> None:
    original = getattr(owner, name)

    async def wrapped(*args: Any, **named: Any) -> Any:
        reached(before)
        result = await original(*args, **named)
        if counts(result):
            reached(after)
        return result

    setattr(owner, name, wrapped)


def _after(owner: Any, name: str, reached: Callable[[str], None], step: str) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        result = original(*args, **named)
        reached(step)
        return result

    static = isinstance(inspect.getattr_static(owner, name), staticmethod)
    setattr(owner, name, staticmethod(wrapped) if static else wrapped)


def _before(owner: Any, name: str, reached: Callable[[str], None], step: str) -> None:
    original = getattr(owner, name)

    def wrapped(*args: Any, **named: Any) -> Any:
        reached(step)
        return original(*args, **named)

    setattr(owner, name, wrapped)
