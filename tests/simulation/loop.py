"""An event loop on virtual time, in which simulated processes can be paused and killed between any two steps.

Every callback runs in a `contextvars.Context`; the `ACTOR` found there says whose it is. A dead actor's callbacks are
dropped (no `finally` of it ever runs again), a paused one's are parked until it goes on. Time stands still while
anything is ready and then jumps to the next timer, so a run needs no waiting, and its order depends on nothing but
what was drawn from the seed.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar
from typing import Any


class Actor:
    """Something that runs on the loop and may be paused or killed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.parked: list[Any] | None = None
        self.lost: list[Any] = []
        self.steps = 0
        self.trips: list[tuple[int, Callable[[], None]]] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def after_steps(self, steps: int, what: Callable[[], None]) -> None:
        """Do `what` just before the step that comes `steps` from now."""
        self.trips.append((self.steps + steps, what))

    def trip(self) -> None:
        """Do what has become due by steps."""
        due = [what for step, what in self.trips if step <= self.steps]
        self.trips = [each for each in self.trips if each[0] > self.steps]
        for what in due:
            what()


ACTOR: ContextVar[Actor | None] = ContextVar("ACTOR", default=None)
"""Whose callback runs; None: the world's own (the gateway, the network, the operator)."""

KEY: ContextVar[str | None] = ContextVar("KEY", default=None)
"""The idempotency key that the running task works for."""


class StuckError(Exception):
    """Nothing is ready and no timer is set: the run can never go on."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Runs everything that is ready, then jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.virtual = 0.0
        self.steps = 0
        self.set_task_factory(_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self.virtual

    def __del__(self) -> None:
        """Nothing is held that needs closing."""

    def _write_to_self(self) -> None:
        """No selector sleeps, so none needs waking."""

    def _asyncgen_finalizer_hook(self, agen: Any) -> None:
        """Not closed by a task: when the collector finds it must not change the run."""

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready:
            if not scheduled:
                raise StuckError
            self.virtual = max(self.virtual, scheduled[0]._when)
        while scheduled and scheduled[0]._when <= self.virtual:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                self._run_handle(handle)

    def _run_handle(self, handle: Any) -> None:
        actor = handle._context.get(ACTOR)
        if actor is not None:
            if actor.trips:
                actor.trip()
            if actor.dead:
                actor.lost.append(handle)
                return
            if actor.parked is not None:
                actor.parked.append(handle)
                return
            actor.steps += 1
        self.steps += 1
        handle._run()

    def resume(self, actor: Actor) -> None:
        """Let a paused actor go on with everything that has waited, in its order."""
        parked, actor.parked = actor.parked, None
        self._ready.extend(parked or ())  # type: ignore[attr-defined]

    def bury(self, actor: Actor) -> None:
        """After the run: let a dead actor's callbacks run after all, so that its cancelled tasks come to their end."""
        actor.dead, lost, actor.lost = False, actor.lost, []
        self._ready.extend(lost)  # type: ignore[attr-defined]


def _task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], context: Context | None = None
) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, context=context)
    actor = context.get(ACTOR) if context is not None else ACTOR.get()
    if actor is not None:
        actor.tasks.append(task)
    return task
