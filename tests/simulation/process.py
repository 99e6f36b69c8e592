"""One simulated process, that can be killed: its clock, its face of the ledger, and a real client for each account."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from qfpay_preauth import PreauthClient, Settings, _limits
from qfpay_preauth._transport import Transport
from tests.simulation.loop import ACTOR, KEY, Actor
from tests.simulation.store import SimLedger
from tests.simulation.wire import SimTransport

if TYPE_CHECKING:
    from tests.simulation.site import Site
    from tests.simulation.world import World


class SimClock:
    """A process's clocks: the wall clock is off by `offset_s` and may jump; the other one never does."""

    def __init__(self, world: World, offset_s: float) -> None:
        self._world = world
        self.offset_s = offset_s

    def now(self) -> datetime:
        return self._world.scenario.start + timedelta(seconds=self._world.loop.virtual + self.offset_s)

    def monotonic(self) -> float:
        return self._world.loop.virtual + 1000.0


class SimClient(PreauthClient):
    """The real client, with the simulated clock and wire in its two seams."""

    def __init__(self, process: Process, site: Site, *args: Any, **kwargs: Any) -> None:
        super().__init__(site.credentials(), *args, **kwargs)
        self._process = process
        self._site = site
        self._clock = process.clock

    def _make_transport(self) -> Transport:
        return SimTransport(self._process, self._site, self.settings)


class Process(Actor):
    """A process from its start to its death; what is started again is another one."""

    def __init__(self, world: World, number: int, incarnation: int) -> None:
        super().__init__(f"p{number}.{incarnation}")
        self.world = world
        world.graveyard.append(self)
        self.number = number
        self.clock = SimClock(world, world.clock_offset())
        self.closing = False
        self._context = contextvars.copy_context()
        self._context.run(ACTOR.set, self)
        _limits._budgets.clear()  # every process has a budget of its own
        ledger = SimLedger(self)  # type: ignore[abstract]
        how: dict[str, Any] = {"settings": Settings(**world.scenario.settings), "on_event": world.on_event}
        self.clients = [SimClient(self, site, ledger=ledger, **how) for site in world.sites]

    @property
    def usable(self) -> bool:
        """Whether calls can be made in it."""
        return not self.dead and not self.closing

    def spawn(self, work: Coroutine[Any, Any, Any], key: str | None = None) -> asyncio.Task[Any]:
        """Run a task of this process, on behalf of `key`."""
        context = self._context.copy()
        context.run(KEY.set, key)
        task = self.world.loop.create_task(work, context=context)
        task.add_done_callback(self.world.on_end)
        return task

    def call_soon(self, what: Callable[[], object]) -> None:
        """Do something as this process."""
        self.world.loop.call_soon(what, context=self._context)
