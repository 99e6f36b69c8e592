"""Captures in an aiohttp.web application. Copy it with `http_answers.py` into a package of yours, here `shop`:

    export QFPAY_APP_CODE=… QFPAY_CLIENT_KEY=… QFPAY_LEDGER=sqlite:///ledger.db QFPAY_DEADLINE_S=20
    python -m aiohttp.web -P 8080 shop.aiohttp_app:create_app

- `POST /authorizations` registers a hold, once the browser's Payment Element has told its syssn.
- `POST /authorizations/{syssn}/captures` `{"amount": 20000}` with an `Idempotency-Key` header; see `http_answers`.
- `POST /qfpay/notify` takes QFPay's notifications.
- `GET /ready`: 200 while the ledger answers. Doubts take nobody out of service; their age is shown, and is an alarm.

A caller that hangs up loses its answer and nothing else: the exchange runs to its end, the ledger keeps it, and the
same key asked again replays it; also where handlers are cancelled (`handler_cancellation=True`, a time-out middleware).
On SIGTERM aiohttp lets the requests under way end, then the client drains. Keep QFPAY_DEADLINE_S below the time-out of
the proxy in front. Authenticate your callers: this recipe leaves that to you.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from aiohttp import web

from qfpay_preauth import InvalidRequestError, PreauthClient, PreauthError
from qfpay_preauth.instrumentation import structlog_hook, watch_doubts
from qfpay_preauth.notifications import aiohttp_handler

from .http_answers import Answer, done, failed

RECONCILE_EVERY_S = 300
CLIENT = web.AppKey("client", PreauthClient)


def create_app(argv: Sequence[str] | None = None) -> web.Application:
    """The application, with one client for all its requests (`argv` is what `python -m aiohttp.web` hands on)."""
    eyes = structlog_hook()
    client = PreauthClient.from_env(on_event=eyes)

    async def lifespan(app: web.Application) -> AsyncIterator[None]:
        async with client:  # leaving it drains: what was sent is answered or in doubt, never lost
            beside = [
                asyncio.create_task(client.run_reconciler(RECONCILE_EVERY_S)),
                asyncio.create_task(watch_doubts(client, eyes)),
            ]
            yield
            for task in beside:
                task.cancel()
            await asyncio.wait(beside)

    app = web.Application(middlewares=[errors])
    app[CLIENT] = client
    app.cleanup_ctx.append(lifespan)
    app.router.add_post("/qfpay/notify", aiohttp_handler(client))
    app.router.add_post("/authorizations", register)
    app.router.add_post("/authorizations/{syssn}/captures", capture)
    app.router.add_get("/ready", ready)
    return app


@web.middleware
async def errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error of the library as the answer that it means."""
    try:
        return await handler(request)
    except PreauthError as error:
        return answered(failed(error))


def answered(answer: Answer) -> web.Response:
    """The answer as a response."""
    status, body, headers = answer
    return web.json_response(body, status=status, headers=headers)


async def given(request: web.Request, *names: str) -> list[Any]:
    """The named fields of the JSON body; the client checks their values."""
    try:
        body = await request.json()
        return [body[name] for name in names]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise InvalidRequestError(f"A JSON object with {', '.join(names)} is expected.") from None


async def register(request: web.Request) -> web.Response:
    """Write a hold into the ledger, before its first capture."""
    syssn, amount, currency, number = await given(request, "syssn", "amount", "currency", "out_trade_no")
    books = await request.app[CLIENT].register_authorization(syssn, amount, currency, out_trade_no=number)
    return web.json_response({"capturable": books.capturable}, status=201)


async def capture(request: web.Request) -> web.Response:
    """Take part or all of a hold."""
    key = request.headers.get("Idempotency-Key")
    if not key:
        raise InvalidRequestError("The Idempotency-Key header is missing: name the intent, as order-17/parcel-1.")
    (amount,) = await given(request, "amount")
    client = request.app[CLIENT]
    return answered(done(await client.capture(request.match_info["syssn"], amount, idempotency_key=key)))


async def ready(request: web.Request) -> web.Response:
    """200 while the ledger answers, with the age of the oldest doubt."""
    async with aclosing(request.app[CLIENT].in_doubt()) as doubts:  # oldest first: one is enough
        oldest = await anext(doubts, None)
    return web.json_response({"oldest_doubt_s": oldest.age_s if oldest else 0.0})
