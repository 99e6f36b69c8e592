"""One run: a seed's world is built, its steps are done, then (in liveness runs) calm comes and everything must end."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import random
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from unittest import mock

from qfpay_preauth import _limits, _wire
from qfpay_preauth.errors import LedgerUnavailableError, PreauthError
from tests.simulation import luck
from tests.simulation.drawing import CLOCK_S, Scenario, draw
from tests.simulation.kinds import OPEN_QUESTIONS, SET_UPS
from tests.simulation.loop import KEY, StuckError, VirtualLoop
from tests.simulation.process import Process
from tests.simulation.site import Site
from tests.simulation.store import InlineSqlite, WatchedMemory, at_once


class World:
    """Everything of one run; the dice are the only chance in it."""

    def __init__(self, seed: int, *, verbose: bool = False, focus: frozenset[str] = frozenset()) -> None:
        self.scenario: Scenario = draw(seed, focus)
        self.dice = random.Random(seed ^ 0x5EED)
        random.seed(seed)  # tenacity's jitter
        _limits._budgets.clear()
        self.log: list[str] | None = [] if verbose else None
        self.violations: list[str] = []
        self.hits: Counter[str] = Counter(dict.fromkeys(self.scenario.on & {*OPEN_QUESTIONS, *SET_UPS}, 1))
        self.loop = VirtualLoop()
        self.calm = self.over = False
        self._context = contextvars.copy_context()
        self.gateway_offset_s = self.clock_offset()
        self.store = InlineSqlite() if self.scenario.sqlite else WatchedMemory()
        self.sites = [Site(self, number) for number in range(self.scenario.accounts)]
        self.processes: list[Process] = []
        self.graveyard: list[Process] = []
        self.ledger_kinds = [each for each in ("ledger_before", "ledger_after") if each in self.scenario.on]

    # ------------------------------------------------------------------ time, chance, history

    def gateway_now(self) -> datetime:
        """The gateway's own clock."""
        return self.scenario.start + timedelta(seconds=self.loop.virtual + self.gateway_offset_s)

    def clock_offset(self) -> float:
        """How far a clock is off."""
        return self.dice.uniform(-CLOCK_S, CLOCK_S)

    def latency(self) -> float:
        """One way through the network."""
        return self.dice.random() * self.scenario.latency_s

    def outside(self, delay_s: float, what: Callable[..., object], *args: Any) -> None:
        """Do something later that no process does: it goes on when processes die."""
        self.loop.call_later(delay_s, what, *args, context=self._context)

    def note(self, what: str) -> None:
        """One line of the history."""
        if self.log is not None:
            self.log.append(f"{self.loop.virtual:11.4f} {what}")

    @property
    def history_hash(self) -> str:
        """The run in one number."""
        return hashlib.sha256("\n".join(self.log or ()).encode()).hexdigest()[:16]

    async def connect(self) -> None:
        """Get a connection, or not."""
        await luck.connect(self)

    def ledger_luck(self, verb: str) -> tuple[float, float, str]:
        """How long a verb takes before and after its commit, and whether it fails."""
        return luck.ledger(self, verb)

    # ------------------------------------------------------------------ what the auditors are told

    def fail(self, invariant: str, what: str) -> None:
        """Write a violation down."""
        self.violations.append(f"{invariant}: {what}")
        self.note(f"VIOLATION {invariant}: {what}")

    def commit(self, process: Process, verb: str, args: tuple[Any, ...]) -> tuple[Any, PreauthError | None]:
        """Run one verb on the store; the account's auditor sees what it wrote."""
        self.store.written.clear()
        outcome, error = None, None
        try:
            outcome = at_once(getattr(self.store, verb)(*args))
        except PreauthError as raised:
            error = raised
        except Exception as raised:
            self.fail("CRASH", f"{verb} raised {raised!r} at {_where(raised)}")
            error = LedgerUnavailableError("crashed")
        if self.log is not None:
            self._note_commit(process, verb, error)
        if self.store.written or verb == "notice":
            self._audit(verb, args[0] if isinstance(args[0], str) else args[0].account, error)
        return outcome, error

    def _audit(self, verb: str, account: str, error: PreauthError | None) -> None:
        now = self.scenario.start + timedelta(seconds=self.loop.virtual)
        site = next(each for each in self.sites if each.account == account)
        strangers = {whose for whose, _, _ in self.store.written} - {account}
        if strangers:
            self.fail("I6", f"{verb} for {account} wrote into the books of {sorted(strangers)}")
        site.auditor.on_commit(verb, error, [(kind, value) for _, kind, value in self.store.written], now)

    def _note_commit(self, process: Process, verb: str, error: PreauthError | None) -> None:
        if error is not None:
            self.note(f"{process.name} {verb} for {KEY.get()}: refused, {type(error).__name__}")
            return
        for account, kind, value in self.store.written:
            note = next(each.note for each in self.sites if each.account == account)
            if kind == "entry":
                said = (
                    f"{value.idempotency_key}#{value.attempt} {value.operation.value} {value.amount} on {value.syssn}"
                )
                how = f" by {value.confirmed_by.value}" if value.confirmed_by else ""
                extra = f" ({value.attention or value.detail or ''})"
                note(f"{process.name} {verb}: {said} is {value.state.value} {value.result_syssn or ''}{how}{extra}")
            elif kind == "movement" and value.idempotency_key is None:
                note(f"{process.name} {verb}: {value.syssn} is a {value.kind} of {value.amount} made elsewhere")
            elif kind == "discrepancy":
                note(f"{process.name} {verb}: discrepancy {value.kind.value} {value.syssn} {value.theirs}")

    def on_crash(self, loop: Any, context: dict[str, Any]) -> None:
        """An exception that nobody caught, while the run was still on."""
        error = context.get("exception")
        if error is not None and not self.over:
            self.fail("CRASH", f"{error!r} at {_where(error)}")

    def on_end(self, task: asyncio.Task[Any]) -> None:
        """A task of a process ended: what it raised is nothing that the library may raise."""
        if not self.over and not task.cancelled() and (error := task.exception()) is not None:
            self.fail("CRASH", f"{error!r} at {_where(error)}")

    def on_event(self, event: Any) -> None:
        """The client's hook; now and then it raises, which must harm nothing."""
        if "cancel" in self.scenario.on and event.amount == 300:
            raise RuntimeError("a raising hook")


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.name}, line {frame.lineno}"


def run_seed(seed: int, *, verbose: bool = False, focus: frozenset[str] = frozenset()) -> World:
    """Run one seed to its end; the violations are the auditor's."""
    from tests.simulation.play import play

    world = World(seed, verbose=verbose, focus=focus)
    world.loop.set_exception_handler(world.on_crash)
    try:
        with mock.patch.object(_wire, "PAGE_SIZE", world.scenario.page_size):
            world.loop.run_until_complete(play(world))
    except StuckError:
        world.fail("I12", "the run is stuck: something waits for what never comes")
    except Exception as error:
        world.fail("CRASH", f"{error!r} at {_where(error)}")
    finally:
        world.loop.close()
    return world
