"""The error tree: as documented, picklable with its attributes, and never with a secret."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest

import qfpay_preauth
from qfpay_preauth import Capture, Outcome, PreauthError, errors

TREE: dict[str, str] = {
    "InvalidRequestError": "PreauthError",
    "ConfigurationError": "PreauthError",
    "LedgerError": "PreauthError",
    "UnknownAuthorizationError": "LedgerError",
    "UnknownCaptureError": "LedgerError",
    "OverCaptureError": "LedgerError",
    "OverRefundError": "LedgerError",
    "AuthorizationClosedError": "LedgerError",
    "AlreadyUnfrozenError": "AuthorizationClosedError",
    "AuthorizationExpiredError": "AuthorizationClosedError",
    "IdempotencyConflictError": "LedgerError",
    "OperationInProgressError": "LedgerError",
    "LedgerUnavailableError": "LedgerError",
    "GatewayError": "PreauthError",
    "DeclinedError": "GatewayError",
    "RateLimitedError": "GatewayError",
    "CredentialsRejectedError": "GatewayError",
    "NotSentError": "PreauthError",
    "OutcomeUnknownError": "PreauthError",
    "InvalidSignatureError": "PreauthError",
}
DETAILS: dict[str, dict[str, Any]] = {
    "OverCaptureError": {"requested": 500, "capturable": 200},
    "OverRefundError": {"requested": 500, "refundable": 200},
    "LedgerUnavailableError": {"result": Capture("C1", "S1", 500, "HKD", "k", raw={"respcd": "0000"})},
    "GatewayError": {"code": "9999", "message": "said"},
    "DeclinedError": {"code": "1265", "message": "not now", "retry_later": True},
    "RateLimitedError": {"code": "429", "message": None, "retry_after_s": 7.5},
    "CredentialsRejectedError": {"code": "1108", "message": "signature"},
}
NAMES = ["PreauthError", *TREE]


def kind_of(name: str) -> type[PreauthError]:
    """The public class of that name."""
    found: type[PreauthError] = getattr(qfpay_preauth, name)
    return found


def filled(name: str) -> PreauthError:
    """An error of that kind with everything an error of that kind can carry."""
    common: dict[str, Any] = {"outcome": Outcome.UNKNOWN, "advice": "Do this.", "idempotency_key": "order-17"}
    return kind_of(name)("What happened.", **common, **DETAILS.get(name, {}))


def test_the_tree_is_as_documented() -> None:
    """Each public error has the parent it is documented under, and there is no other public error."""
    for name, parent in TREE.items():
        assert issubclass(kind_of(name), kind_of(parent))
        bases = [base.__name__ for base in kind_of(name).__mro__[1:] if base.__name__ in NAMES]
        assert bases[0] == parent
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert {name for name in defined if not name.startswith("_")} == set(NAMES)
    assert {name for name in qfpay_preauth.__all__ if name.endswith("Error")} == set(NAMES)


def test_the_drawing_in_the_docstring_is_the_tree() -> None:
    """The tree drawn at the top of errors.py is the tree that is there."""
    drawn: dict[str, str] = {}
    above = {0: "PreauthError"}
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│ ]*)[├└]── (\w+)", line)
        if found:
            depth = len(found[1]) // 4 + 1
            above[depth] = found[2]
            drawn[found[2]] = above[depth - 1]
    assert drawn == TREE


@pytest.mark.parametrize("name", NAMES)
def test_defaults_say_what_happened_and_what_to_do(name: str) -> None:
    """Without arguments: the class's own sentence, an advice, and UNKNOWN only where the outcome is."""
    error = kind_of(name)()
    assert error.args[0] == (kind_of(name).__doc__ or "").partition("\n")[0]
    assert error.args[0].endswith(".")
    assert error.advice
    assert str(error) == f"{error.args[0]} {error.advice}"
    assert error.idempotency_key is None
    expected = Outcome.UNKNOWN if name == "OutcomeUnknownError" else Outcome.NOTHING_HAPPENED
    assert error.outcome is expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_pickles_with_its_attributes(name: str, protocol: int) -> None:
    """An error that crosses a process boundary is the same error with the same attributes."""
    error = filled(name)
    error.add_note("seen by worker 3")
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert (again.args, str(again)) == (error.args, str(error))
    assert again.outcome is Outcome.UNKNOWN
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize("name", sorted(DETAILS))
def test_every_kind_carries_its_own_attributes(name: str) -> None:
    """What the docstring promises is there."""
    error = filled(name)
    assert {key: getattr(error, key) for key in DETAILS[name]} == DETAILS[name]


class ShopError(qfpay_preauth.OverCaptureError):
    """A subclass of a user's, with a signature of its own."""

    def __init__(self, order: int) -> None:
        super().__init__(f"Order {order}.", requested=order, capturable=1)
        self.order = order


def test_a_users_subclass_pickles_too() -> None:
    """A subclass with another signature survives the same way."""
    again = pickle.loads(pickle.dumps(ShopError(17)))
    assert (type(again), again.order, again.requested, again.capturable) == (ShopError, 17, 17, 1)
    assert str(again).startswith("Order 17.")


def test_an_invalid_request_is_a_value_error() -> None:
    """Callers that catch ValueError catch it."""
    assert issubclass(qfpay_preauth.InvalidRequestError, ValueError)
    assert not any(issubclass(kind_of(name), ValueError) for name in NAMES if name != "InvalidRequestError")


def test_an_advice_can_be_replaced_but_not_lost() -> None:
    """A given advice and outcome replace the defaults; none given means the defaults."""
    error = PreauthError("What.", advice="Wait.", outcome=Outcome.HAPPENED)
    assert (str(error), error.outcome) == ("What. Wait.", Outcome.HAPPENED)
    assert PreauthError("What.", advice=None, outcome=None).advice == PreauthError.default_advice


def test_an_error_keeps_its_cause() -> None:
    """`raise … from …` works as with any exception."""
    cause = OSError("disk full")
    with pytest.raises(qfpay_preauth.LedgerUnavailableError) as caught:
        raise qfpay_preauth.LedgerUnavailableError("Not written.") from cause
    assert caught.value.__cause__ is cause
