"""For tests of your own: a simulated QFPay gateway that keeps its own books and fails to order.

It imports nothing of the client it judges. Names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._books import Books, Hold, Movement, Refusal, Totals
    from ._config import Config
    from ._core import Core
    from ._faults import KINDS, QUICK_KINDS, Faults, Rule
    from ._plan import Answer, Plan, Request, Wire
    from .gateway import Gateway
    from .simulate import serve

__all__ = [
    "KINDS",
    "QUICK_KINDS",
    "Answer",
    "Books",
    "Config",
    "Core",
    "Faults",
    "Gateway",
    "Hold",
    "Movement",
    "Plan",
    "Refusal",
    "Request",
    "Rule",
    "Totals",
    "Wire",
    "serve",
]

_HOMES = {
    **dict.fromkeys(("Books", "Hold", "Movement", "Refusal", "Totals"), "_books"),
    **dict.fromkeys(("KINDS", "QUICK_KINDS", "Faults", "Rule"), "_faults"),
    **dict.fromkeys(("Answer", "Plan", "Request", "Wire"), "_plan"),
    "Config": "_config",
    "Core": "_core",
    "Gateway": "gateway",
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
