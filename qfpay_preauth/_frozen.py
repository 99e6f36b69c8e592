"""How values are declared that every capture makes several of; attrs' own `frozen` takes longer for each field.

`sealed` values are frozen in truth: what the ledger keeps, or a caller is given, cannot be changed. `passing` ones only
pass through one call, and are frozen for the type checker alone.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from attrs import define
from attrs.exceptions import FrozenInstanceError

if TYPE_CHECKING:
    from attrs import frozen as passing
    from attrs import frozen as sealed
else:
    passing = partial(define, unsafe_hash=True)

    def sealed(kind: type) -> type:
        """A class whose instances are made as `define` makes them, and can never be changed after that."""
        making = define(kind, unsafe_hash=True)
        names = ("__module__", "__qualname__", "__doc__")
        body = {name: getattr(making, name) for name in names} | {
            "__slots__": (),
            "__signature__": inspect.signature(making),
            "__setattr__": _refuse,
            "__delattr__": _refuse,
            "_making": making,
        }
        return _Sealing(kind.__name__, (making,), body)


class _Sealing(type):
    """Makes an instance while it is open, and then closes it; attrs' `frozen` goes around a closed door each time."""

    _making: type | None

    def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> None:
        super().__init__(name, bases, body)
        cls._making = body.get("_making")  # none of its own: a subclass, declared in another way

    def __call__(cls, *args: Any, **named: Any) -> Any:
        if cls._making is None:
            return super().__call__(*args, **named)
        made = cls._making(*args, **named)
        made.__class__ = cls
        return made


def _refuse(self: object, name: str, value: object = None) -> NoReturn:
    raise FrozenInstanceError


__all__ = ["passing", "sealed"]
