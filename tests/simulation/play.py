"""The play of one run: who does what, and the calm afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from qfpay_preauth import errors
from qfpay_preauth.testing._portal import act
from qfpay_preauth.testing._records import Hold, Refusal
from tests.simulation import audit_end, people
from tests.simulation.calls import Calls
from tests.simulation.drawing import Step
from tests.simulation.process import Process

if TYPE_CHECKING:
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
    audit_end.books(world)
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
        world = self.world
        for amount in world.scenario.holds:
            self.holds.append(world.core.books.hold(amount, "HKD", world.gateway_now()))
        for number in range(world.scenario.processes):
            self._start(number)
        for number, hold in enumerate(self.holds):
            if number == 0 and "import" in world.scenario.on:
                continue
            await world.processes[0].spawn(self._register(world.processes[0], hold))

    async def _register(self, process: Process, hold: Hold) -> None:
        await process.client.register_authorization(
            hold.syssn,
            hold.amount,
            hold.currency,
            out_trade_no=hold.out_trade_no,
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
            self.reconcilers.append(process.spawn(self._quietly(lambda: process.client.run_reconciler(interval_s))))

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
        if process.usable and args["key_"] in self.world.auditor.entries:
            self.world.hits["conflict"] += 1
            process.spawn(self._conflict(process, args), args["key_"])

    def _do_reconcile(self, process: Process) -> None:
        if process.usable:
            process.spawn(self._quietly(process.client.reconcile))

    def _do_look(self, process: Process) -> None:
        if process.usable:
            process.spawn(self._quietly(lambda: people.look(self.world, process, self.holds[0].syssn)))

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
        await process.client.aclose()
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
                self.world.auditor.fail("I14", f"left after aclose(): {strangers}")
        if restart and not process.dead:
            process.dead = True
            self.world.outside(0.0, self._start, process.number)

    def _do_clock_jump(self, process: Process) -> None:
        process.clock.offset_s = self.world.clock_offset()
        self.world.hits["clock_jump"] += 1

    def _do_rotation(self, process: Process) -> None:
        """The merchant's key changes; the process is started again with the new one."""
        world = self.world
        if world.keys[1] is None:
            world.keys = "KEY_OF_THE_SECOND_YEAR", world.keys[0]
            world.core.config.client_key, world.core.config.other_keys = world.keys[0], (str(world.keys[1]),)
            world.hits["rotation"] += 1
        self._do_close(process)

    def _do_portal(self, process: Process, kind_: str, hold_: int, share_: int) -> None:
        """A person does something in the merchant portal."""
        world, hold = self.world, self.holds[hold_]
        done = [each for each in world.core.books.of_hold(hold.syssn) if each.executed and each.kind == "capture"]
        target = hold.syssn if kind_ != "refund" else done[-1].syssn if done else ""
        if not target or not world.core.books.left(target):
            return  # nothing is left to do
        try:
            act(
                world.core.books, kind_, target, share_ if share_ and kind_ != "unfreeze" else None, world.gateway_now()
            )
        except (Refusal, ValueError) as refusal:
            world.note(f"portal: {refusal}")
        else:
            world.hits[f"portal_{kind_}"] += 1

    def _do_import(self, process: Process, hold_: int) -> None:
        if process.usable:
            self.world.hits["import"] += 1
            syssn = self.holds[hold_].syssn
            process.spawn(self._quietly(lambda: process.client.import_authorization(syssn=syssn)))

    def _do_old_notice(self, process: Process) -> None:
        """Somebody posts a genuine notice again."""
        if self.world.postman.genuine:
            self.world.hits["old_notice"] += 1
            self.world.postman.post(self.world.dice.choice(self.world.postman.genuine))

    def _do_decide(self, process: Process, right_: bool) -> None:
        if process.usable:
            process.spawn(self._quietly(lambda: people.decide(self.world, process, right=right_)))

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
            await process.spawn(self._pass(process))
            await self.until(world.loop.virtual + pause_s)
        if "lapse" in scenario.on:
            await self.until(world.loop.virtual + 8.1 * 86_400)
            for pause_s in (60.0, 60.0):
                await process.spawn(self._pass(process))
                await self.until(world.loop.virtual + pause_s)
        audit_end.doubts(world)
        for key, args in list(self.asked.items()):
            await process.spawn(self.call(process, **{k: v for k, v in args.items() if k != "timeout_"}), key)
        await self.until(world.loop.virtual + 12.0)
        await process.spawn(self._pass(process))
        audit_end.agreement(world)
        for each in world.processes:
            if each.usable:
                await each.spawn(self._close(each, restart=False))

    async def _pass(self, process: Process) -> None:
        try:
            report = await process.client.reconcile()
        except errors.PreauthError as error:
            self.world.auditor.fail("I12", f"reconcile() failed though nothing is wrong any more: {error}")
        else:
            self.world.note(f"reconcile: {len(report.ended)} ended, {report.in_doubt} in doubt")

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
