"""Calls that move money, as callers make them, and what the auditor asks of their outcomes (I9)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qfpay_preauth import errors
from qfpay_preauth._models import Result
from qfpay_preauth.testing._records import Hold
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.world import World


class Calls:
    """Who asked for what, and what they were told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.holds: list[Hold] = []
        self.results: dict[str, Result] = {}
        self.asked: dict[str, dict[str, Any]] = {}

    async def call(self, process: Process, **args: Any) -> None:
        """One money call, by whatever task of whatever process."""
        key, syssn = args["key_"], self.holds[args["hold_"]].syssn
        if args["operation_"] == "refund":
            capture = self.world.auditor.entries.get(args["of_"])
            if capture is None or capture.result_syssn is None:
                return
            syssn = capture.result_syssn
        how = {"idempotency_key": key} | ({"patience_s": 0.0} if self.world.calm else {})
        self.asked[key] = args
        try:
            async with asyncio.timeout(args.get("timeout_")) as timer:
                result = await getattr(process.client, args["operation_"])(syssn, args["amount_"], **how)
        except errors.PreauthError as error:
            self._failed(process, key, error)
        except TimeoutError:
            if timer.expired():
                self.world.hits["timeout"] += 1
        else:
            self._returned(process, key, result)

    def _returned(self, process: Process, key: str, result: Result) -> None:
        world = self.world
        world.note(f"{process.name} {key} -> {type(result).__name__} {result.syssn} replayed={result.replayed}")
        entry = world.auditor.entries.get(key)
        if entry is None or entry.state.value != "executed" or result.syssn != entry.result_syssn:
            world.auditor.fail("I9", f"{key} returned {result.syssn}, and its entry is {entry and entry.state}")
        first = self.results.setdefault(key, result)
        if (first.syssn, first.amount) != (result.syssn, result.amount):
            world.auditor.fail("I9", f"{key} returned {first.syssn} of {first.amount}, then {result.syssn}")

    def _failed(self, process: Process, key: str, error: errors.PreauthError) -> None:
        world = self.world
        world.note(f"{process.name} {key} -> {type(error).__name__} ({error.outcome.value}): {error.args[0]}")
        refused = isinstance(error, errors.NotSentError | errors.GatewayError)
        entry = world.auditor.entries.get(key)
        if refused and entry is not None and entry.state.value == "executed" and key not in world.auditor.forced:
            world.auditor.fail("I9", f"{key} raised {type(error).__name__}, and its entry is executed")
        if key in self.results and refused:
            world.auditor.fail("I9", f"{key} returned a result before, and now raised {type(error).__name__}")
        happened = error.outcome is errors.Outcome.HAPPENED
        if happened and not world.auditor.executions[key] and key not in world.auditor.forced:
            world.auditor.fail("I9", f"{key} is said to have happened, and the gateway has not executed it")

    async def _conflict(self, process: Process, args: dict[str, Any]) -> None:
        entry = self.world.auditor.entries[args["key_"]]
        try:
            await getattr(process.client, entry.operation.value)(
                entry.syssn, entry.amount + 1, idempotency_key=entry.idempotency_key, patience_s=0.0
            )
        except (errors.IdempotencyConflictError, errors.LedgerUnavailableError, errors.RateLimitedError):
            return
        except errors.PreauthError as error:
            self.world.auditor.fail("I9", f"{args['key_']} asked for something else: {type(error).__name__}")
        else:
            self.world.auditor.fail("I9", f"{args['key_']} asked for something else was done")
