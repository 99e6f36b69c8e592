"""A QFPay pre-authorization gateway for tests, on a local port, with books of its own and faults to order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from ._books import Books
from ._config import Config
from ._core import Core
from ._courier import Delivery, Round
from ._faults import Faults
from ._notice import notification
from ._plan import Request
from ._portal import act
from ._records import Hold
from ._server import Server

_GLANCE_S = 0.02


class Gateway:
    """An async context manager that serves QFPay's API on ``url``.

    Args:
        config: account and behaviour; ``Config()`` if ``None``. Changeable while running.
        host, port: where to listen; port 0 takes a free one.
        faults: what goes wrong; nothing if ``None``. Replaceable while running.
        clock: gives the gateway's time (aware ``datetime``); the machine's if ``None``. See ``ManualClock``.
        auto_notify: post notifications in the background as soon as they are due; else by ``deliver_due()``.

    Raises on entry: ``OSError`` if the port is taken.

    Example::

        async with Gateway() as gateway:
            syssn = gateway.hold(50_000)
            gateway.faults.add("drop_after", operation="capture")
            ...  # point a client at gateway.url with gateway.app_code and gateway.client_key
            assert gateway.books.totals(syssn).captured == 20_000
            assert gateway.books.audit() == []
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults | None = None,
        clock: Callable[[], datetime] | None = None,
        auto_notify: bool = False,
    ) -> None:
        self.core = Core(config, faults)
        self._clock = clock or _machine_clock
        self._where = (host, port)
        self._auto_notify = auto_notify
        self._background: asyncio.Task[None] | None = None
        self.server = Server(self.core, self._clock)

    async def __aenter__(self) -> Self:
        await self.server.start(*self._where)
        if self._auto_notify:
            self._background = asyncio.create_task(self._keep_delivering())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        background, self._background = self._background, None
        if background is not None:
            background.cancel()
            await asyncio.wait([background])
        await self.server.stop()
        if background is not None and not background.cancelled():
            background.result()

    # -- the account -------------------------------------------------------------------------------------

    @property
    def config(self) -> Config:
        """Every setting; assign to its fields."""
        return self.core.config

    @property
    def url(self) -> str:
        """``http://host:port`` without a trailing slash."""
        return f"http://{self._where[0]}:{self.server.port}"

    @property
    def app_code(self) -> str:
        """The accepted ``X-QF-APPCODE``."""
        return self.config.app_code

    @app_code.setter
    def app_code(self, value: str) -> None:
        self.config.app_code = value

    @property
    def client_key(self) -> str:
        """The signing key; ``config.other_keys`` are accepted beside it."""
        return self.config.client_key

    @client_key.setter
    def client_key(self, value: str) -> None:
        self.config.client_key = value

    @property
    def mchid(self) -> str | None:
        """The assigned merchant id, or ``None``."""
        return self.config.mchid

    @mchid.setter
    def mchid(self, value: str | None) -> None:
        self.config.mchid = value

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return self.core.faults

    @faults.setter
    def faults(self, value: Faults) -> None:
        self.core.faults = value

    # -- what a test looks at ----------------------------------------------------------------------------

    @property
    def books(self) -> Books:
        """The gateway's books as of now."""
        self.core.advance(self.now())
        return self.core.books

    @property
    def requests(self) -> list[Request]:
        """Every request received, in order."""
        return self.core.requests

    def now(self) -> datetime:
        """The gateway's time."""
        return self._clock()

    # -- what others do ----------------------------------------------------------------------------------

    def hold(self, amount: int, currency: str = "HKD", *, out_trade_no: str | None = None) -> str:
        """Hold ``amount`` minor units as a customer does in the browser; the hold's syssn."""
        return self._hold(amount, currency, out_trade_no).syssn

    def confirm(self, payment_intent: str) -> str:
        """Let the customer confirm a payment intent; the hold's syssn. Raises ``KeyError`` if unknown."""
        return self.books.confirm(payment_intent, self.now()).syssn

    def portal_capture(self, syssn: str, amount: int) -> str:
        """Capture in the merchant portal; the capture's syssn. Raises ``Refusal``."""
        return self._portal("capture", syssn, amount)

    def portal_unfreeze(self, syssn: str, amount: int | None = None) -> str:
        """Unfreeze (the rest, if no amount is given) in the portal; its syssn. Raises ``Refusal``."""
        return self._portal("unfreeze", syssn, amount)

    def portal_refund(self, capture_syssn: str, amount: int) -> str:
        """Refund a capture in the portal; the refund's syssn. Raises ``Refusal``."""
        return self._portal("refund", capture_syssn, amount)

    def notification(self, syssn: str, **changes: str | None) -> tuple[bytes, dict[str, str]]:
        """Body and headers of the notification about a hold or an executed movement, rightly signed.

        ``changes`` are fields to set (``None`` removes). Raises ``KeyError`` if the syssn is unknown.
        """
        return notification(self.books, syssn, changes)

    # -- notifications -----------------------------------------------------------------------------------

    @property
    def notify_url(self) -> str | None:
        """Where executed movements are notified, ``None`` for nowhere (the default)."""
        return self.config.notify_url

    @notify_url.setter
    def notify_url(self, value: str | None) -> None:
        self.config.notify_url = value

    @property
    def deliveries(self) -> list[Delivery]:
        """Every notification posted (or lost) so far, in order."""
        return self.core.courier.deliveries

    @property
    def next_delivery(self) -> datetime | None:
        """When the next notification is due: on a ``ManualClock``, ``set`` it and call ``deliver_due``."""
        self.core.advance(self.now())
        return self.core.courier.next_due

    async def deliver_due(self) -> Round:
        """Post every notification that is due by the gateway's clock, one after the other.

        What is not answered with HTTP 200 and ``SUCCESS`` is due again 2 min, 10 min, 10 min, 60 min, 2 h, 6 h and
        15 h after the delivery before; then never. Raises nothing for an endpoint, however it behaves.
        """
        from ._postman import deliver

        return await deliver(self.core, self._clock)

    async def _keep_delivering(self) -> None:
        while True:
            await self.deliver_due()
            await asyncio.sleep(_GLANCE_S)

    # -- faults in progress ------------------------------------------------------------------------------

    def settle_pending(self) -> int:
        """End every pending movement as its rule says; how many."""
        return self.core.flush("pending", self.now())

    def run_late(self) -> int:
        """Execute every late request now; how many."""
        return self.core.flush("late", self.now())

    def release(self) -> int:
        """Let go of every hanging request; how many."""
        return self.server.release()

    async def wait_hanging(self, count: int = 1) -> None:
        """Return as soon as ``count`` requests hang (or wait for a swap) at once."""
        await self.server.wait_hanging(count)

    async def close_idle(self) -> int:
        """Close kept-alive connections that carry no request; how many."""
        return await self.server.close_idle()

    async def refuse_connections(self) -> None:
        """Stop listening until ``accept_connections``."""
        await self.server.pause()

    async def accept_connections(self) -> None:
        """Listen again on the same port."""
        await self.server.resume()

    def _hold(self, amount: int, currency: str, out_trade_no: str | None) -> Hold:
        return self.books.hold(amount, currency, self.now(), out_trade_no)

    def _portal(self, action: str, syssn: str, amount: int | None) -> str:
        return act(self.books, action, syssn, amount, self.now()).syssn


def _machine_clock() -> datetime:
    return datetime.now(UTC)
