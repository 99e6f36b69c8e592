"""The ledger's conformance kit: what `qfpay_preauth.ledger.Ledger` promises, as tests for a back-end of your own.

It needs pytest and, because its tests are async, pytest-asyncio (in any mode).
"""

from __future__ import annotations

import pytest

from ._contract_books import BooksCases
from ._contract_conclude import ConcludeCases
from ._contract_model import ModelCases
from ._contract_notices import NoticeCases
from ._contract_replay import ReplayCases, TogetherCases
from ._contract_reserve import ReserveCases

__all__ = ["LedgerContract"]


class LedgerContract(ReserveCases, ReplayCases, TogetherCases, ConcludeCases, BooksCases, NoticeCases, ModelCases):
    """Every promise of the ledger's interface, one test each.

    Subclass it in a test module, under a name that pytest collects, and say how a ledger is made::

        from qfpay_preauth.testing.ledger_contract import LedgerContract

        class TestMyLedger(LedgerContract):
            async def make_ledger(self, tmp_path):
                return MyLedger(tmp_path / "ledger")

    `make_ledger` is called once per test and returns a ledger without content, opened for "sandbox" or not yet opened.
    `drop_ledger` is called after each test and closes it; override it where more has to be cleaned up.

    Attributes:
        model_seed, model_steps: of the random walk that is compared with a simple model; the same seed, the same walk.
    """

    pytestmark = pytest.mark.asyncio
