"""Celery's forked workers, each task with a loop and a client of its own; errors that travel between processes."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qfpay_preauth import Capture, errors
from qfpay_preauth.errors import Outcome, OverCaptureError, PreauthError
from qfpay_preauth.testing import Gateway
from tests.evidence.kit import writes
from tests.recipes.again import comes_again_s
from tests.recipes.celery_app import app, capture, reconcile
from tests.recipes.folder import use_whole_messages
from tests.recipes.web import check_books, environ, run_copied
from tests.support import client_of, registered, sqlite_url

_ON_A_FOLDER = """
from tests.recipes.folder import use_whole_messages
from .celery_app import app

use_whole_messages()
app.conf.update({config!r})
"""


def on_a_folder(folder: Path) -> dict[str, Any]:
    """Messages and results as files: what is tested is the forking, not the broker."""
    for name in ("messages", "control", "results"):
        (folder / name).mkdir()
    messages = str(folder / "messages")
    options = {"data_folder_in": messages, "data_folder_out": messages, "control_folder": str(folder / "control")}
    return {
        "broker_url": "filesystem://",
        "broker_transport_options": {**options, "polling_interval": 0.05},
        "result_backend": f"file://{folder / 'results'}",
    }


@asynccontextmanager
async def worker(folder: Path, given: Mapping[str, str]) -> AsyncIterator[None]:
    """A worker with two forked processes; killed at the end, all three (a warm shutdown takes Celery seven seconds)."""
    config = on_a_folder(folder)
    app.conf.update(config)
    use_whole_messages()
    (folder / "shop").mkdir()
    (folder / "shop" / "on_a_folder.py").write_text(_ON_A_FOLDER.format(config=config))
    flags = ["--pool=prefork", "--concurrency=2", "--without-gossip", "--without-mingle", "--loglevel=warning"]
    command = [sys.executable, "-m", "celery", "-A", "shop.on_a_folder", "worker", *flags]
    child = await run_copied(folder, given, command, folder / "log.txt")
    try:
        yield
    finally:
        ended = child.returncode
        if ended is None:
            os.killpg(child.pid, signal.SIGKILL)
        await child.wait()
        app.close()
    assert ended is None, (folder / "log.txt").read_text()


async def answer(result: Any) -> Any:
    """What a task returned, or the error that it raised."""
    return await asyncio.to_thread(result.get, timeout=40, interval=0.02, propagate=False)


async def test_forked_workers(qfpay_gateway: Gateway, tmp_path: Path) -> None:
    """Eight captures, each ordered twice at once, one lost answer, one refusal: each is taken once, the refusal comes
    back with all that it knows, and the books are the gateway's."""
    async with client_of(qfpay_gateway, sqlite_url(tmp_path), capture_reference=True) as client:
        syssns = [await registered(client, qfpay_gateway) for _ in range(8)]
    qfpay_gateway.faults.add("drop_after", operation="capture", syssn=syssns[3])
    async with worker(tmp_path, {**environ(qfpay_gateway, tmp_path), "AGAIN_S": "0.1"}):
        twice = [capture.delay(syssn, 1_000, f"order-{syssn}") for syssn in syssns for _ in range(2)]
        refused = await answer(capture.delay(syssns[0], 50_001, "too much"))
        waiting = asyncio.gather(*(answer(each) for each in twice))
        while not waiting.done():  # as the beat does
            assert await answer(reconcile.delay()) <= 1
            await asyncio.wait((waiting,), timeout=0.2)
        results = await waiting
    assert [each["amount"] for each in results] == [1_000] * 16
    assert isinstance(refused, OverCaptureError)
    assert (refused.outcome, refused.idempotency_key) == (Outcome.NOTHING_HAPPENED, "too much")
    assert (refused.requested, refused.capturable <= 50_000, bool(refused.advice)) == (50_001, True, True)
    assert writes(qfpay_gateway) == 8
    await check_books(qfpay_gateway, tmp_path, dict.fromkeys(syssns, 1_000))


def _kinds(kind: type[PreauthError] = PreauthError) -> list[type[PreauthError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kinds(below))]


@pytest.mark.parametrize("kind", _kinds(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_every_error_travels(kind: type[PreauthError], protocol: int) -> None:
    """Any error, pickled and read again as another process does it, says the same."""
    error = kind("what happened", outcome=Outcome.HAPPENED, advice="do this", idempotency_key="k")
    error.result = Capture("9", "1", 500, "HKD", "k")  # type: ignore[attr-defined]
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is kind
    assert (again.args, again.__dict__, str(again)) == (error.args, error.__dict__, str(error))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (errors.NotSentError("x"), True),
        (errors.NotSentError("x", outcome=Outcome.UNKNOWN), True),
        (errors.RateLimitedError("x", retry_after_s=90), True),
        (errors.OperationInProgressError("x"), True),
        (errors.LedgerUnavailableError("x"), True),
        (errors.LedgerUnavailableError("x", outcome=Outcome.HAPPENED), True),
        (errors.CredentialsRejectedError("x"), True),
        (errors.DeclinedError("x", retry_later=True), True),
        (errors.OutcomeUnknownError("x"), True),
        (errors.DeclinedError("x"), False),
        (errors.InvalidRequestError("x"), False),
        (errors.OverCaptureError("x"), False),
        (errors.AlreadyUnfrozenError("x"), False),
        (errors.IdempotencyConflictError("x"), False),
    ],
    ids=lambda each: type(each).__name__,
)
def test_which_messages_come_again(error: errors.PreauthError, again: bool) -> None:
    """Only what is known and final leaves the queue at once."""
    wait_s = comes_again_s(error)
    assert (wait_s is not None) is again
    if isinstance(error, errors.RateLimitedError):
        assert wait_s == 90
