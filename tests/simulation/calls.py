"""Calls that move money, as callers make them, and what the auditor asks of their outcomes (I9)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from qfpay_preauth import errors
from qfpay_preauth._models import Result
from tests.simulation.process import Process

if TYPE_CHECKING:
    from tests.simulation.site import Site
    from tests.simulation.world import World


class Calls:
    """Who asked for what, and what they were told; keys are an account's own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.results: dict[tuple[int, str], Result] = {}
        self.asked: dict[tuple[int, str], dict[str, Any]] = {}

    def site_of(self, hold: int) -> Site:
        """The account that a hold belongs to."""
        return self.world.sites[hold % len(self.world.sites)]

    def syssn_of(self, hold: int) -> str:
        """A hold's id."""
        return self.site_of(hold).holds[hold // len(self.world.sites)].syssn

    async def call(self, process: Process, **args: Any) -> None:
        """One money call, by whatever task of whatever process."""
        key, site, syssn = args["key_"], self.site_of(args["hold_"]), self.syssn_of(args["hold_"])
        if args["operation_"] == "refund":
            capture = site.auditor.entries.get(args["of_"])
            if capture is None or capture.result_syssn is None:
                return
            syssn = capture.result_syssn
        how = {"idempotency_key": key} | ({"patience_s": 0.0} if self.world.calm else {})
        self.asked[site.number, key] = args
        try:
            async with asyncio.timeout(args.get("timeout_")) as timer:
                client = process.clients[site.number]
                result = await getattr(client, args["operation_"])(syssn, args["amount_"], **how)
        except errors.PreauthError as error:
            self._failed(site, process, key, error)
        except TimeoutError:
            if timer.expired():
                self.world.hits["timeout"] += 1
        else:
            self._returned(site, process, key, result)

    def _returned(self, site: Site, process: Process, key: str, result: Result) -> None:
        site.note(f"{process.name} {key} -> {type(result).__name__} {result.syssn} replayed={result.replayed}")
        entry = site.auditor.entries.get(key)
        if entry is None or entry.state.value != "executed" or result.syssn != entry.result_syssn:
            site.auditor.fail("I9", f"{key} returned {result.syssn}, and its entry is {entry and entry.state}")
        first = self.results.setdefault((site.number, key), result)
        if (first.syssn, first.amount) != (result.syssn, result.amount):
            site.auditor.fail("I9", f"{key} returned {first.syssn} of {first.amount}, then {result.syssn}")

    def _failed(self, site: Site, process: Process, key: str, error: errors.PreauthError) -> None:
        auditor = site.auditor
        site.note(f"{process.name} {key} -> {type(error).__name__} ({error.outcome.value}): {error.args[0]}")
        nothing = error.outcome is errors.Outcome.NOTHING_HAPPENED
        refused = nothing and isinstance(error, errors.NotSentError | errors.GatewayError)
        entry = auditor.entries.get(key)
        if refused and entry is not None and entry.state.value == "executed" and key not in auditor.forced:
            auditor.fail("I9", f"{key} raised {type(error).__name__}, and its entry is executed")
        if (site.number, key) in self.results and refused:
            auditor.fail("I9", f"{key} returned a result before, and now raised {type(error).__name__}")
        happened = error.outcome is errors.Outcome.HAPPENED
        if happened and not auditor.executions[key] and key not in auditor.forced:
            auditor.fail("I9", f"{key} is said to have happened, and the gateway has not executed it")

    async def _conflict(self, process: Process, args: dict[str, Any]) -> None:
        site = self.site_of(args["hold_"])
        entry = site.auditor.entries[args["key_"]]
        try:
            await getattr(process.clients[site.number], entry.operation.value)(
                entry.syssn, entry.amount + 1, idempotency_key=entry.idempotency_key, patience_s=0.0
            )
        except (errors.IdempotencyConflictError, errors.LedgerUnavailableError, errors.RateLimitedError):
            return
        except errors.PreauthError as error:
            site.auditor.fail("I9", f"{args['key_']} asked for something else: {type(error).__name__}")
        else:
            site.auditor.fail("I9", f"{args['key_']} asked for something else was done")
