"""What is to happen on the wire: decided purely, carried out by a server or a simulation."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any

import attrs

#: A decoded answer, before it becomes bytes.
Reply = dict[str, Any]


def changed(reply: Reply, changes: Mapping[str, Any]) -> Reply:
    """``reply`` with ``changes``; a value of ``None`` removes the field."""
    return {name: value for name, value in {**reply, **changes}.items() if changes.get(name, "") is not None}


class Wire(Enum):
    """How a request ends on its connection."""

    ANSWER = "answer"
    CLOSE = "close"  # an orderly end (FIN) without a byte
    RESET = "reset"  # RST
    HANG = "hang"  # silence until released, then the answer if there is one
    SWAP = "swap"  # silence until another plan hands over its answer


@attrs.frozen
class Answer:
    """An HTTP answer: status, headers (without the length, which the carrier adds) and body."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@attrs.frozen(kw_only=True)
class Plan:
    """One request's end. The books have already been written: only the wire is left to do.

    Attributes:
        answer: what is sent, if anything.
        delay_s: seconds of silence first.
        send_bytes: of the body only so many bytes, then the connection closes (``None``: all).
        pieces, pause_s: the body goes out in so many pieces with a pause in seconds between them.
        ticket: this plan waits for the answer handed over under this number (``Wire.SWAP``).
        hand_over: ``(ticket, answer)`` for a plan that waits.
        fault: the kind of fault, ``None`` if the gateway behaved.
        executed: the syssn of what moved money now.
    """

    wire: Wire = Wire.ANSWER
    answer: Answer | None = None
    delay_s: float = 0.0
    send_bytes: int | None = None
    pieces: int = 1
    pause_s: float = 0.0
    ticket: int | None = None
    hand_over: tuple[int, Answer] | None = None
    fault: str | None = None
    executed: str | None = None


@attrs.frozen(kw_only=True)
class Request:
    """A request as the gateway received it; ``at`` is the gateway's time, header names are lower-case.

    ``operation`` is ``capture``, ``unfreeze``, ``refund``, ``query``, ``create_payment_intent`` or ``""``.
    ``fault`` and ``executed`` are those of its ``Plan``.
    """

    at: datetime
    method: str
    path: str
    operation: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    signature_ok: bool
    remote: str
    fault: str | None
    executed: str | None
