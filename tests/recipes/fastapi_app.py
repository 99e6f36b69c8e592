"""Captures in a FastAPI application. Copy it with `http_answers.py` into a package of yours, here `shop`:

    export QFPAY_APP_CODE=… QFPAY_CLIENT_KEY=… QFPAY_LEDGER=sqlite:///ledger.db QFPAY_DEADLINE_S=20
    python -m uvicorn --factory shop.fastapi_app:create_app --timeout-graceful-shutdown 30

- `POST /authorizations` registers a hold, once the browser's Payment Element has told its syssn.
- `POST /authorizations/{syssn}/captures` `{"amount": 20000}` with an `Idempotency-Key` header; see `http_answers`.
- `POST /qfpay/notify` takes QFPay's notifications.
- `GET /ready`: 200 while the ledger answers. Doubts take nobody out of service; their age is shown, and is an alarm.

A caller that hangs up loses its answer and nothing else: the exchange runs to its end, the ledger keeps it, and the
same key asked again replays it. On SIGTERM uvicorn lets the requests under way end, then the client drains. Keep
QFPAY_DEADLINE_S below the time-out of the proxy in front. Authenticate your callers: this recipe leaves that to you.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Header, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, StrictInt
from starlette.routing import Route

from qfpay_preauth import InvalidRequestError, PreauthClient, PreauthError
from qfpay_preauth.instrumentation import structlog_hook, watch_doubts
from qfpay_preauth.notifications import asgi_app

from .http_answers import done, failed

RECONCILE_EVERY_S = 300


class Hold(BaseModel):
    """What the Payment Element told the browser."""

    syssn: str
    amount: StrictInt
    currency: str
    out_trade_no: str


class Parcel(BaseModel):
    """What to capture, in minor units of the hold's currency."""

    amount: StrictInt


def create_app() -> FastAPI:
    """The application, with one client for all its requests."""
    eyes = structlog_hook()
    client = PreauthClient.from_env(on_event=eyes)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client:  # leaving it drains: what was sent is answered or in doubt, never lost
            beside = [
                asyncio.create_task(client.run_reconciler(RECONCILE_EVERY_S)),
                asyncio.create_task(watch_doubts(client, eyes)),
            ]
            yield
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    app = FastAPI(lifespan=lifespan)
    app.routes.append(Route("/qfpay/notify", asgi_app(client), methods=["POST"]))  # a mount would redirect QFPay

    @app.exception_handler(PreauthError)
    async def on_error(request: Request, error: PreauthError) -> JSONResponse:
        status, body, headers = failed(error)
        return JSONResponse(body, status, headers)

    @app.post("/authorizations", status_code=201)
    async def register(hold: Hold) -> dict[str, int]:
        books = await client.register_authorization(
            hold.syssn, hold.amount, hold.currency, out_trade_no=hold.out_trade_no
        )
        return {"capturable": books.capturable}

    @app.post("/authorizations/{syssn}/captures")
    async def capture(
        syssn: str, parcel: Parcel, idempotency_key: Annotated[str | None, Header()] = None
    ) -> JSONResponse:
        if not idempotency_key:
            raise InvalidRequestError("The Idempotency-Key header is missing: name the intent, as order-17/parcel-1.")
        status, body, headers = done(await client.capture(syssn, parcel.amount, idempotency_key=idempotency_key))
        return JSONResponse(body, status, headers)

    @app.get("/ready")
    async def ready() -> dict[str, float]:
        async with aclosing(client.in_doubt()) as doubts:  # oldest first: one is enough
            oldest = await anext(doubts, None)
        return {"oldest_doubt_s": oldest.age_s if oldest else 0.0}

    return app
