"""The in-memory wire: the real transport without its socket, and the network between it and the gateway's core."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import aiohttp
from multidict import CIMultiDict

from qfpay_preauth._models import Answer, Delivery, SignedRequest, Unknown
from qfpay_preauth._transport import Body, Transport
from qfpay_preauth.testing._config import Config
from qfpay_preauth.testing._core import Core
from qfpay_preauth.testing._faults import Faults, Rule
from qfpay_preauth.testing._plan import Answer as GatewayAnswer
from qfpay_preauth.testing._plan import Plan, Wire
from tests.simulation.loop import KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from qfpay_preauth import Settings
    from tests.simulation.process import Process
    from tests.simulation.site import Site

_NOT_UNDERSTOOD = re.compile(rb'"respcd": "(1103|1106|1107|1108)"')
OPERATIONS = {"/trade/v1/authtrade": "capture", "/trade/v1/unfreeze": "unfreeze", "/trade/v1/refund": "refund"}


class Sent:
    """One request whose body left a process: what it asked, for which key, and what became of it."""

    __slots__ = ("at", "attempt", "incarnation", "key", "operation", "params", "refused")

    def __init__(self, process: Process, request: SignedRequest) -> None:
        self.key = KEY.get()
        self.operation = OPERATIONS.get(request.path, "")
        self.params: Mapping[str, str] = dict(parse_qsl(request.body.decode())) if self.operation else {}
        self.at = process.clock.now()
        self.incarnation = process.name
        self.attempt = 0
        self.refused = False


class SimTransport(Transport):
    """The real transport's own rules (`exchange`, `Body`) over a wire that the world draws."""

    def __init__(self, process: Process, site: Site, settings: Settings) -> None:
        self._process = process
        self._site = site
        self._settings = settings
        self._clock = process.clock

    async def close(self) -> None:
        """No session."""

    async def _post(self, request: SignedRequest, body: Body, total_s: float) -> Delivery:
        async with asyncio.timeout(total_s):
            return await self.post_once(request, body)

    async def post_once(self, request: SignedRequest, body: Body) -> Delivery:
        """Connect, hand the body over, wait for the answer."""
        world = self._process.world
        await world.connect()
        hand_over(body)
        sent = Sent(self._process, request)
        self._site.auditor.on_sent(sent, world.loop.virtual)
        future: asyncio.Future[GatewayAnswer] = world.loop.create_future()
        world.outside(world.latency(), self._site.network.arrive, sent, request, future)
        answer = await future
        if len(answer.body) > self._settings.response_bytes_max:
            return Unknown("a body of more than the allowed bytes")
        return Answer(answer.status, CIMultiDict(answer.headers), answer.body)


def hand_over(body: Body) -> None:
    """What aiohttp does when it takes the payload's first byte."""
    body.hand_over()


class SimFaults(Faults):
    """Faults whose draw the world makes."""

    def __init__(
        self, draw: Callable[[str, Mapping[str, str]], Rule | None], notice: Callable[[], Rule | None]
    ) -> None:
        super().__init__()
        self._draw, self._draw_notice = draw, notice

    def pick(self, operation: str, path: str, params: Mapping[str, str]) -> Rule | None:
        return self._draw(operation, params)

    def pick_notice(self, operation: str, params: Mapping[str, str]) -> Rule | None:
        return self._draw_notice()


class SimCore(Core):
    """The gateway's core: what is due later comes at its own time, and is known to be whose doing it is."""

    def __init__(self, config: Config, faults: Faults, site: Site) -> None:
        super().__init__(config, faults)
        self.world = site.world
        self.cause: Sent | None = None
        told = self.books.on_executed

        def executed(record: Any, at: datetime) -> None:
            told(record, at)
            site.on_executed(record, self.cause)

        self.books.on_executed = executed

    def schedule(self, group: str, now: datetime, seconds: float | None, run: Callable[[datetime], object]) -> None:
        cause = self.cause

        def caused(at: datetime) -> object:
            before, self.cause = self.cause, cause
            try:
                return run(at)
            finally:
                self.cause = before

        super().schedule(group, now, seconds, caused)
        self.world.outside(seconds or 0.0, lambda: self.advance(self.world.gateway_now()))


class Network:
    """Carries requests to the gateway and its answers back, as the plans say."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.world = site.world
        self._swaps: dict[int, tuple[asyncio.Future[GatewayAnswer], GatewayAnswer]] = {}

    def arrive(self, sent: Sent, request: SignedRequest, future: asyncio.Future[GatewayAnswer]) -> None:
        """A request is there: the gateway decides, and the answer sets out."""
        world, core = self.world, self.site.core
        core.cause = sent
        try:
            plan = core.handle("POST", request.path, request.headers, request.body, world.gateway_now())
        finally:
            core.cause = None
        if world.log is not None:
            self.site.note(f"gateway: {sent.operation or 'query'} for {sent.key}: {_described(plan)}")
        if plan.answer is not None and plan.answer.status == 429:
            sent.refused = True
        self._understood(sent, plan)
        if not sent.operation:
            self.site.crowd.between()
        if plan.hand_over is not None:
            plan = self._exchange_answers(plan)
        if plan.wire is Wire.HANG:
            return
        if plan.wire is Wire.SWAP:
            assert core.waiting_swap is not None
            self._swaps[plan.ticket or 0] = future, core.waiting_swap[1]
            return
        wait_s = world.latency() + plan.delay_s + (plan.pieces - 1) * plan.pause_s
        world.outside(wait_s, _deliver, future, plan)

    def _understood(self, sent: Sent, plan: Plan) -> None:
        """What nobody spoiled must be signed, addressed and formed as the account's set-up asks."""
        if plan.fault is None and plan.answer is not None:
            refused = _NOT_UNDERSTOOD.search(plan.answer.body[:200])
            if refused:
                self.site.auditor.fail("WIRE", f"{sent.operation or 'query'} for {sent.key}: {refused[1].decode()}")

    def _exchange_answers(self, plan: Plan) -> Plan:
        """Two answers change places; a refusal echoes nothing by which it could be told, so those stay."""
        assert plan.hand_over is not None
        assert plan.answer is not None
        ticket, mine = plan.hand_over
        future, theirs = self._swaps.pop(ticket)
        swapped = all(b'"respcd": "0000"' in each.body and b'"data"' not in each.body for each in (mine, theirs))
        other = Plan(answer=mine if swapped else theirs)
        if swapped:
            self.world.hits["swapped"] += 1
        self.world.outside(self.world.latency(), _deliver, future, other)
        return Plan(answer=theirs if swapped else mine)


def _deliver(future: asyncio.Future[GatewayAnswer], plan: Plan) -> None:
    if future.done():
        return
    if plan.answer is None or plan.wire in (Wire.CLOSE, Wire.RESET):
        future.set_exception(aiohttp.ServerDisconnectedError() if plan.wire is Wire.CLOSE else ConnectionResetError())
    elif plan.send_bytes is not None:
        future.set_exception(aiohttp.ClientPayloadError("Response payload is not completed"))
    else:
        future.set_result(plan.answer)


def _described(plan: Plan) -> str:
    what = plan.fault or "as it should"
    moved = f", executed {plan.executed}" if plan.executed else ""
    if plan.answer is None:
        return f"{what}{moved}, {plan.wire.value}"
    text = plan.answer.body[:400].decode(errors="replace")
    code = text.partition('"respcd": "')[2][:4]
    return f"{what}{moved}, {plan.wire.value} {plan.answer.status} {code}"
