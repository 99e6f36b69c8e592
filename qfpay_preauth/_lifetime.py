"""The client's lifetime: what it is made from, what exists while it is open, and how it closes."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import evolve, frozen

from qfpay_preauth import _wire
from qfpay_preauth._calls import Call, Calls, Queues
from qfpay_preauth._clock import Clock, SystemClock
from qfpay_preauth._limits import Budget, budget_for
from qfpay_preauth._looks import Seeker
from qfpay_preauth._models import Entry, Event, Policy
from qfpay_preauth._operations import Desk
from qfpay_preauth._reconcile import Reconciler
from qfpay_preauth._settings import Credentials, HiddenMapping, Settings, gateway_url, settings_from
from qfpay_preauth._share import Share
from qfpay_preauth._signing import Signer
from qfpay_preauth._turnstile import Turnstile
from qfpay_preauth._windows import Claim, Lane
from qfpay_preauth.errors import ConfigurationError
from qfpay_preauth.ledger import Ledger, ledger_from

if TYPE_CHECKING:
    from qfpay_preauth._transport import Transport

log = logging.getLogger("qfpay_preauth")
T = TypeVar("T")


@frozen
class Running:
    """What exists while the client is open, on one event loop."""

    loop: asyncio.AbstractEventLoop
    desk: Desk
    calls: Calls
    seeker: Seeker
    reconciler: Reconciler
    quarter: Turnstile
    doubt: asyncio.Event
    background: set[asyncio.Task[Any]]


class ClientBase:
    """Everything of `PreauthClient` but its operations."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        environment: str = "sandbox",
        base_url: str | None = None,
        ledger: str | Ledger,
        settings: Settings | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        self.account = self.base_url = ""  # for the repr of a client that could not be made
        self.environment = environment
        if not isinstance(credentials, Credentials):
            raise ConfigurationError(f"credentials must be Credentials, not {type(credentials).__name__}.")
        if not isinstance(settings, Settings | None):
            raise ConfigurationError(f"settings must be Settings, not {type(settings).__name__}.")
        self.base_url = gateway_url(environment, base_url)
        self.settings = settings or Settings()
        self.account = credentials.account_name
        self._credentials = credentials
        self._ledger = ledger_from(ledger)
        self._owns_ledger = isinstance(ledger, str)
        self._clock: Clock = SystemClock()
        self._budget: Budget = budget_for(
            self.base_url, self.account, self.settings.requests_per_second, self.settings.requests_per_minute
        )
        self._on_event = on_event
        self._policy = Policy(
            None if self.settings.quiet_period_s is None else timedelta(seconds=self.settings.quiet_period_s),
            self.settings.default_capture_window,
        )
        # reconciliation takes at most a quarter of the minute's budget
        self._quarter = Budget(None, _a_quarter(self.settings))
        self._running: Running | None = None
        self._closed = False

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, on_event: Callable[[Event], None] | None = None
    ) -> Self:
        """A client from `QFPAY_APP_CODE`, `QFPAY_CLIENT_KEY`, `QFPAY_LEDGER` and the optional `QFPAY_MCHID`,
        `QFPAY_ENVIRONMENT`, `QFPAY_BASE_URL`, `QFPAY_SIGN_TYPE`, `QFPAY_NOTIFICATION_KEY`, `QFPAY_PREVIOUS_CLIENT_KEY`,
        `QFPAY_PREVIOUS_NOTIFICATION_KEY`, `QFPAY_ACCOUNT`, and one variable per setting (`QFPAY_TIMEOUT_TOTAL_S` …).

        Raises:
            ConfigurationError: a variable is missing or cannot be read.
        """
        # hidden: a traceback with locals must not show the variables, among which is the key
        env = environ = HiddenMapping(os.environ if environ is None else environ)
        missing = [name for name in ("QFPAY_APP_CODE", "QFPAY_CLIENT_KEY", "QFPAY_LEDGER") if not env.get(name)]
        if missing:
            raise ConfigurationError(f"The environment lacks {', '.join(missing)}.")
        optional = ("mchid", "notification_key", "previous_client_key", "previous_notification_key", "account")
        credentials = Credentials(
            env["QFPAY_APP_CODE"],
            env["QFPAY_CLIENT_KEY"],
            sign_type=env.get("QFPAY_SIGN_TYPE") or "SHA256",
            **{name: env.get(f"QFPAY_{name.upper()}") or None for name in optional},
        )
        return cls(
            credentials,
            environment=env.get("QFPAY_ENVIRONMENT") or "sandbox",
            base_url=env.get("QFPAY_BASE_URL") or None,
            ledger=env["QFPAY_LEDGER"],
            settings=settings_from(env),
            on_event=on_event,
        )

    def __repr__(self) -> str:
        return f"PreauthClient(account={self.account!r}, environment={self.environment!r}, url={self.base_url!r})"

    # ------------------------------------------------------------------ lifetime

    async def __aenter__(self) -> Self:
        self._closed = False
        await self._desk()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self, *, drain_s: float | None = None) -> None:
        """Let calls under way end (at most `drain_s` seconds, by default one exchange), then let go of everything.

        What was sent and has no answer by then is concluded as in doubt. Closing twice does nothing; a closing that was
        cancelled is finished by the next.
        """
        self._closed = True
        running = self._running
        if running is not None and running.loop is asyncio.get_running_loop():
            for task in running.background:
                task.cancel()
            if running.background:
                await asyncio.wait(tuple(running.background))
            await running.seeker.close()
            await running.calls.drain(self.settings.timeout_total_s if drain_s is None else drain_s)
            await running.desk.transport.close()
            await running.desk.turnstile.close()
            await running.quarter.close()
        if self._running is running:
            self._running = None
        await self._let_go_of_ledger()

    async def _let_go_of_ledger(self) -> None:
        if self._owns_ledger:
            await self._ledger.close()

    async def _desk(self) -> Desk:
        """The rooms of this event loop, made on first use."""
        if self._closed:
            raise ConfigurationError("The client is closed.", advice="Enter it again: `async with client:`.")
        loop = asyncio.get_running_loop()
        if self._running is None or self._running.loop is not loop:
            await self._ledger.open(self.environment)
            if self._closed:  # aclose() came while it was opening
                await self._let_go_of_ledger()
                raise ConfigurationError("The client was closed.", advice="Enter it again: `async with client:`.")
            if self._running is None or self._running.loop is not loop:
                self._running = self._start(loop)
        return self._running.desk

    def _start(self, loop: asyncio.AbstractEventLoop) -> Running:
        credentials = self._credentials
        signer = Signer(credentials.client_key, credentials.sign_type)
        previous = credentials.previous_client_key
        doubt = asyncio.Event()
        desk = Desk(
            settings=self.settings,
            clock=self._clock,
            ledger=self._ledger,
            transport=self._make_transport(),
            turnstile=self._turnstile(
                self._budget, self.settings.requests_per_second, self.settings.requests_per_minute
            ),
            queues=Queues(),
            sender=_wire.Sender(credentials.app_code, signer, credentials.mchid),
            keys=[signer, Signer(previous)] if previous else [signer],
            seek=_nothing_yet,
            emit=lambda event: self._emit(event, doubt),
            listens=self._on_event is not None,
        )
        quarter = self._turnstile(self._quarter, None, _a_quarter(self.settings), "/reconciliation")
        seeker = Seeker(desk, self.account, self._policy, quarter)
        reconciler = Reconciler(desk, self.account, self._policy, quarter)
        return Running(loop, evolve(desk, seek=seeker.seek), Calls(), seeker, reconciler, quarter, doubt, set())

    def _turnstile(self, budget: Budget, per_second: int | None, per_minute: int, part: str = "") -> Turnstile:
        """Where calls wait for the budget; where processes share the ledger, they share the windows."""
        share = None
        if self._ledger.shared:
            name = f"{self.base_url}#{self.account}{part}"
            share = Share(self._ledger.draw, Claim(name, per_second, per_minute, 0, self._clock.monotonic))
        return Turnstile(budget, self._clock.monotonic, share)

    def _make_transport(self) -> Transport:
        """The seam where a simulation puts its own wire."""
        from qfpay_preauth._transport import Transport  # with it comes aiohttp, which a bare import must not bring

        return Transport(self.base_url, self.settings, self._clock)

    def _emit(self, event: Event, doubt: asyncio.Event) -> None:
        """Give an event to the hook; a raising hook harms nothing."""
        if event.kind == "doubt":
            doubt.set()
        if self._on_event is None:
            return
        try:
            self._on_event(evolve(event, account=self.account))
        except (Exception, asyncio.CancelledError):  # also what a cancelled future of the hook's own raises
            log.exception("the on_event hook raised on %s", event.kind)

    def _notification_keys(self) -> list[Signer]:
        """The keys that may sign notifications: the notification key (or the client key), and the previous ones."""
        given = self._credentials
        current = given.notification_key or given.client_key
        previous = (given.previous_notification_key, given.previous_client_key)
        return [Signer(key) for key in dict.fromkeys([current, *filter(None, previous)])]

    async def _call(
        self,
        work: Callable[[Desk, Call], Coroutine[Any, Any, T]],
        deadline_s: float | None = None,
        lane: Lane = Lane.INTERACTIVE,
        group: object = None,
    ) -> T:
        """Run `work` in a task of its own, under one deadline."""
        running = self._running_here() or await self._ready()
        call = Call(self._clock.monotonic() + (deadline_s or self.settings.deadline_s), lane, group)
        return await running.calls.run(call, work(running.desk, call))

    def _running_here(self) -> Running | None:
        """What exists already for this event loop."""
        running = self._running
        here = running is not None and running.loop is asyncio.get_running_loop() and not self._closed
        return running if here else None

    async def _ready(self) -> Running:
        """The same, made where it did not exist."""
        await self._desk()
        assert self._running is not None  # noqa: S101 - _desk has just seen to it
        return self._running


def _a_quarter(settings: Settings) -> int:
    return max(1, settings.requests_per_minute // 4)


async def _nothing_yet(entry: Entry, deadline: float, lane: Lane) -> Entry:
    """Stands in while the seeker, which needs the desk itself, is being made."""
    return entry
