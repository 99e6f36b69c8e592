"""Captures as Celery tasks: forked workers, and for every task an event loop and a client of its own.

Copy it with `again.py` into a package of yours, here `shop`:

    export QFPAY_APP_CODE=… QFPAY_CLIENT_KEY=… QFPAY_LEDGER=sqlite:///ledger.db
    export CELERY_BROKER_URL=… CELERY_RESULT_BACKEND=…
    python -m celery -A shop.celery_app worker --beat

    capture.delay(syssn, 20_000, "order-17/parcel-1").get()

The idempotency key is the caller's; a task that Celery runs twice moves the money once. A client belongs to one event
loop and one process, so it is made after the fork, inside the task: that costs a TLS connection each time. Where that
is too much, take a worker with one long loop (`nats_worker`). The rate budget is shared through the ledger.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery import Celery, Task

from qfpay_preauth import PreauthClient, PreauthError

from .again import comes_again_s

AGAIN_S = float(os.environ.get("AGAIN_S", "5"))

app = Celery("shop", broker=os.environ.get("CELERY_BROKER_URL"), backend=os.environ.get("CELERY_RESULT_BACKEND"))
app.conf.update(
    # errors come back whole, with .outcome and .advice; tasks stay JSON. Nobody else may write to the result back-end.
    result_serializer="pickle",
    result_accept_content=["pickle"],
    beat_schedule={"reconcile": {"task": "preauth.reconcile", "schedule": 60.0}},
)


@app.task(name="preauth.capture", bind=True, acks_late=True, reject_on_worker_lost=True, max_retries=None)
def capture(task: Task, syssn: str, amount: int, idempotency_key: str) -> dict[str, Any]:
    """Take part or all of a hold; comes again until the outcome is known.

    Raises:
        PreauthError: it is refused for good.
    """
    try:
        return asyncio.run(_capture(syssn, amount, idempotency_key))
    except PreauthError as error:
        again_s = comes_again_s(error, AGAIN_S)
        if again_s is None:
            raise
        raise task.retry(exc=error, countdown=again_s) from error


async def _capture(syssn: str, amount: int, idempotency_key: str) -> dict[str, Any]:
    async with PreauthClient.from_env() as client:
        result = await client.capture(syssn, amount, idempotency_key=idempotency_key)
    return {"syssn": result.syssn, "amount": result.amount, "replayed": result.replayed}


@app.task(name="preauth.reconcile")
def reconcile() -> int:
    """One pass over the doubts and the books; how many doubts are left."""
    return asyncio.run(_reconcile())


async def _reconcile() -> int:
    async with PreauthClient.from_env() as client:
        return (await client.reconcile()).in_doubt
