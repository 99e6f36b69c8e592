"""Values that are made cheaply are frozen all the same."""

from __future__ import annotations

import copy
import inspect
import pickle
from datetime import UTC, datetime

import pytest
from attrs import evolve, fields
from attrs.exceptions import FrozenInstanceError

from qfpay_preauth import Authorization, Event
from qfpay_preauth._events import CallEvent
from qfpay_preauth._models import Operation

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)
HOLD = Authorization("A", "1", 500, "HKD", out_trade_no="O", registered_at=MOMENT)


def test_a_sealed_value_cannot_be_changed() -> None:
    """Neither setting nor deleting an attribute, known or new, is possible."""
    for name in ("amount", "new"):
        with pytest.raises(FrozenInstanceError):
            setattr(HOLD, name, 1)
        with pytest.raises(FrozenInstanceError):
            delattr(HOLD, name)
    assert HOLD.amount == 500
    assert not hasattr(HOLD, "__dict__")


def test_a_sealed_value_is_one_of_its_class_and_no_other() -> None:
    """Equal values are equal and hash alike, whichever way they were made; their class is the one that is imported."""
    other = Authorization("A", "1", 400, "HKD", "O", MOMENT)
    assert type(HOLD) is Authorization
    assert (evolve(other, amount=500) == HOLD, other == HOLD) == (True, False)
    assert hash(evolve(other, amount=500)) == hash(HOLD)
    assert copy.copy(HOLD) == copy.deepcopy(HOLD) == pickle.loads(pickle.dumps(HOLD)) == HOLD
    assert type(pickle.loads(pickle.dumps(HOLD))) is Authorization


def test_a_sealed_class_tells_what_it_takes() -> None:
    """Its fields, signature, repr and module are those that were declared."""
    names = [each.name for each in fields(Authorization)]
    assert list(inspect.signature(Authorization).parameters) == names
    assert repr(HOLD).startswith("Authorization(account='A', syssn='1', amount=500")
    assert (Authorization.__module__, Authorization.__qualname__) == ("qfpay_preauth._models", "Authorization")
    with pytest.raises(TypeError, match="missing"):
        Authorization("A")  # type: ignore[call-arg]


def test_a_sealed_class_can_be_inherited_from() -> None:
    """A subclass with fields of its own is made as it says, and is frozen too."""
    event = CallEvent("A", MOMENT, "call", "1", operation=Operation.CAPTURE, call=7)
    assert (type(event), event.call, isinstance(event, Event)) == (CallEvent, 7, True)
    with pytest.raises(FrozenInstanceError):
        event.call = 8  # type: ignore[misc]
