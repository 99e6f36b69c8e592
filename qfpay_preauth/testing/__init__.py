"""For tests of your own: a simulated QFPay gateway that keeps its own books and fails to order.

It imports nothing of the client it judges. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._books import Books
    from ._clock import ManualClock
    from ._config import Config
    from ._core import Core
    from ._courier import Delivery, Round
    from ._faults import KINDS, NOTICE_KINDS, QUICK_KINDS, Faults, Rule
    from ._plan import Answer, Plan, Request, Wire
    from ._records import Hold, Movement, Refusal, Totals
    from .gateway import Gateway
    from .simulate import serve

__all__ = [
    "KINDS",
    "NOTICE_KINDS",
    "QUICK_KINDS",
    "Answer",
    "Books",
    "Config",
    "Core",
    "Delivery",
    "Faults",
    "Gateway",
    "Hold",
    "ManualClock",
    "Movement",
    "Plan",
    "Refusal",
    "Request",
    "Round",
    "Rule",
    "Totals",
    "Wire",
    "serve",
]

_HOMES = {
    **dict.fromkeys(("Hold", "Movement", "Refusal", "Totals"), "_records"),
    **dict.fromkeys(("Delivery", "Round"), "_courier"),
    **dict.fromkeys(("KINDS", "NOTICE_KINDS", "QUICK_KINDS", "Faults", "Rule"), "_faults"),
    **dict.fromkeys(("Answer", "Plan", "Request", "Wire"), "_plan"),
    "Books": "_books",
    "Config": "_config",
    "Core": "_core",
    "Gateway": "gateway",
    "ManualClock": "_clock",
    "serve": "simulate",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
