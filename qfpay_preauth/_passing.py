"""How values are declared that only pass through one call: frozen for the type checker alone, which costs nothing.

attrs' `frozen` triples the time that it takes to make a value; what is kept, or handed to a caller, is frozen in truth.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from attrs import define

if TYPE_CHECKING:
    from attrs import frozen as passing
else:
    passing = partial(define, unsafe_hash=True)

__all__ = ["passing"]
