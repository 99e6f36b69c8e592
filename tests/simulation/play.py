"""The play of one run: who does what, and the calm afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from qfpay_preauth import errors
from qfpay_preauth.testing._portal import act
from qfpay_preauth.testing._records import Refusal
from tests.simulation import audit_end, people
from tests.simulation.calls import Calls
from tests.simulation.drawing import Step
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.site import Site
    from tests.simulation.world import World


async def play(world: World) -> None:
    """One whole run."""
    stage = Stage(world)
    await stage.open()
    for step in world.scenario.steps:
        await stage.until(step.at)
        stage.do(step)
    await stage.until(world.scenario.length_s)
    if world.scenario.live:
        await stage.calm()
    for site in world.sites:
        audit_end.books(site)
    await stage.clear()


class Stage(Calls):
    """Holds, processes and calls of one run."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.reconcilers: list[asyncio.Task[Any]] = []
        self.started = 0

    async def until(self, moment: float) -> None:
        """Let time pass."""
        await asyncio.sleep(max(0.0, moment - self.world.loop.virtual))

    async def open(self) -> None:
        """The customers' holds are made, and the processes start."""
        world, scenario = self.world, self.world.scenario
        for number, amount in enumerate(scenario.holds):
            site, ago = self.site_of(number), timedelta(seconds=scenario.ages[number])
            site.holds.append(site.core.books.hold(amount, "HKD", world.gateway_now() - ago))
        for number, amount, ago_s in scenario.before:
            self._before(number, amount, world.gateway_now() - timedelta(seconds=ago_s))
        for site in world.sites:
            site.crowd.before()
        for number in range(scenario.processes):
            self._start(number)
        for number in range(len(scenario.holds)):
            if number == 0 and "import" in scenario.on:
                continue
            await world.processes[0].spawn(self._register(world.processes[0], number))

    def _before(self, number: int, amount: int, at: datetime) -> None:
        """Somebody captured in the portal before anything was known here."""
        act(self.site_of(number).core.books, "capture", self.syssn_of(number), amount, at)
        self.world.hits["portal_before"] += 1

    async def _register(self, process: Process, number: int) -> None:
        site = self.site_of(number)
        hold = site.core.books.holds[self.syssn_of(number)]
        await process.clients[site.number].register_authorization(
            hold.syssn,
            hold.amount,
            hold.currency,
            out_trade_no=hold.out_trade_no,
            authorized_at=hold.at if self.world.scenario.ages[number] else None,
            capture_window=self.world.scenario.window,
        )

    def _start(self, number: int) -> None:
        self.started += 1
        process = Process(self.world, number, self.started)
        if number < len(self.world.processes):
            self.world.processes[number] = process
        else:
            self.world.processes.append(process)
        interval_s = max(10.0, self.world.scenario.length_s / 4)
        if number == 0 and self.world.scenario.reconciler and not self.world.calm:
            for client in process.clients:
                self.reconcilers.append(process.spawn(self._quietly(partial(client.run_reconciler, interval_s))))

    # ------------------------------------------------------------------ steps

    def do(self, step: Step) -> None:
        """Begin one step; it does not wait for its end."""
        process = self.world.processes[step.process]
        if self.world.log is not None:
            self.world.note(f"--- {process.name}: {step.what} {step.args}")
        getattr(self, f"_do_{step.what}")(process, **{f"{name}_": value for name, value in step.args.items()})

    def _do_money(self, process: Process, **args: Any) -> None:
        if process.usable:
            task = process.spawn(self.call(process, **args), args["key_"])
            if "cancel_" in args:
                process.after_steps(args["cancel_"], lambda: self._cancel(task))

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if task.cancel():
            self.world.hits["cancel"] += 1

    def _do_conflict(self, process: Process, **args: Any) -> None:
        """The same key for something else."""
        if process.usable and args["key_"] in self.site_of(args["hold_"]).auditor.entries:
            self.world.hits["conflict"] += 1
            process.spawn(self._conflict(process, args), args["key_"])

    def _do_reconcile(self, process: Process, account_: int) -> None:
        if process.usable:
            process.spawn(self._quietly(process.clients[account_].reconcile))

    def _do_look(self, process: Process, account_: int) -> None:
        if process.usable:
            process.spawn(self._quietly(lambda: people.look(self.world.sites[account_], process)))

    async def _quietly(self, what: Callable[[], Awaitable[object]]) -> None:
        try:
            await what()
        except errors.PreauthError as error:
            self.world.note(f"{type(error).__name__}")

    def _do_kill(self, process: Process, after_: float, steps_: int) -> None:
        def die() -> None:
            if not process.dead:
                process.dead = True
                self.world.hits["kill_at_step" if steps_ else "kill"] += 1
                self.world.note(f"{process.name} is killed")
                self.world.outside(after_, self._start, process.number)

        if steps_:
            process.after_steps(steps_, die)
        else:
            die()

    def _do_pause(self, process: Process, for_: float) -> None:
        if process.usable and process.parked is None:
            process.parked = []
            self.world.hits["pause"] += 1
            self.world.outside(for_, self.world.loop.resume, process)

    def _do_close(self, process: Process) -> None:
        if process.usable:
            self.world.hits["close"] += 1
            process.closing = True
            process.spawn(self._close(process, restart=True))

    async def _close(self, process: Process, *, restart: bool) -> None:
        for client in process.clients:
            await client.aclose()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        mine = asyncio.current_task()
        left = [task for task in process.tasks if not task.done() and task is not mine]
        if left and not process.dead:
            names = sorted(task.get_coro().__qualname__ for task in left)  # type: ignore[union-attr]
            strangers = [
                name for name in names if "simulation" not in name and not name.startswith(("Stage", "Postman"))
            ]
            if strangers:
                self.world.fail("I14", f"left after aclose(): {strangers}")
        if restart and not process.dead:
            process.dead = True
            self.world.outside(0.0, self._start, process.number)

    def _do_clock_jump(self, process: Process) -> None:
        process.clock.offset_s = self.world.clock_offset()
        self.world.hits["clock_jump"] += 1

    def _do_rotation(self, process: Process, account_: int) -> None:
        """The merchant's key changes; the process is started again with the new one."""
        self.world.hits["rotation"] += self.world.sites[account_].rotate()
        self._do_close(process)

    def _do_portal(self, process: Process, kind_: str, hold_: int, share_: int) -> None:
        """A person does something in the merchant portal."""
        world, hold, books = self.world, self.syssn_of(hold_), self.site_of(hold_).core.books
        done = [each for each in books.of_hold(hold) if each.executed and each.kind == "capture"]
        target = hold if kind_ != "refund" else done[-1].syssn if done else ""
        if not target or not books.left(target):
            return  # nothing is left to do
        try:
            act(books, kind_, target, share_ if share_ and kind_ != "unfreeze" else None, world.gateway_now())
        except (Refusal, ValueError) as refusal:
            world.note(f"portal: {refusal}")
        else:
            world.hits[f"portal_{kind_}"] += 1

    def _do_import(self, process: Process, hold_: int) -> None:
        if process.usable:
            self.world.hits["import"] += 1
            client, syssn = process.clients[self.site_of(hold_).number], self.syssn_of(hold_)
            process.spawn(self._quietly(lambda: client.import_authorization(syssn=syssn)))

    def _do_old_notice(self, process: Process, account_: int) -> None:
        """Somebody posts a genuine notice again."""
        postman = self.world.sites[account_].postman
        if postman.genuine:
            self.world.hits["old_notice"] += 1
            postman.post(self.world.dice.choice(postman.genuine))

    def _do_decide(self, process: Process, account_: int, right_: bool) -> None:
        if process.usable:
            process.spawn(self._quietly(lambda: people.decide(self.world.sites[account_], process, right=right_)))

    # ------------------------------------------------------------------ the calm after the storm

    async def calm(self) -> None:
        """Faults stop, everything late comes, processes come back, reconcilers run: every doubt ends or is listed."""
        world, scenario = self.world, self.world.scenario
        world.calm = True
        for task in self.reconcilers:
            task.cancel()  # the calm makes its own passes
        for process in world.processes:
            process.trips.clear()
            world.loop.resume(process)
        await self.until(world.loop.virtual + scenario.late_s + 41.0)
        quiet = scenario.settings.get("quiet_period_s") or 0.0
        await self.until(world.loop.virtual + scenario.settings["deadline_s"] + 8.0 + quiet)
        process = next(each for each in world.processes if each.usable)
        for pause_s in (1.0, 12.0, 12.0) if quiet else (12.0,):
            await self._passes(process)
            await self.until(world.loop.virtual + pause_s)
        if "lapse" in scenario.on:
            await self.until(world.loop.virtual + 8.1 * 86_400)
            for pause_s in (60.0, 60.0):
                await self._passes(process)
                await self.until(world.loop.virtual + pause_s)
        for site in world.sites:
            audit_end.doubts(site)
        for (_, key), args in list(self.asked.items()):
            await process.spawn(self.call(process, **{k: v for k, v in args.items() if k != "timeout_"}), key)
        await self.until(world.loop.virtual + 12.0)
        await self._passes(process)
        for site in world.sites:
            audit_end.agreement(site)
        for each in world.processes:
            if each.usable:
                await each.spawn(self._close(each, restart=False))

    async def _passes(self, process: Process) -> None:
        for site in self.world.sites:
            await process.spawn(self._pass(site, process))

    async def _pass(self, site: Site, process: Process) -> None:
        try:
            report = await process.clients[site.number].reconcile()
        except errors.PreauthError as error:
            site.auditor.fail("I12", f"reconcile() failed though nothing is wrong any more: {error}")
        else:
            site.note(f"reconcile: {len(report.ended)} ended, {report.in_doubt} in doubt")
            if not report.complete:
                site.auditor.fail("I12", "a pass could not read the enquiry as a whole, though nothing is wrong")

    async def clear(self) -> None:
        """After the audit: let go of every task, also of the dead's, so that nothing is left to the collector."""
        world = self.world
        world.over = True
        for _ in range(20):
            left = [task for process in world.graveyard for task in process.tasks if not task.done()]
            if not left:
                return
            for task in left:
                task.cancel()
            for process in world.graveyard:
                process.trips.clear()
                world.loop.bury(process)
                world.loop.resume(process)
            await asyncio.wait(left, timeout=0.01)
