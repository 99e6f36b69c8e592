"""One working process: `PLAN NUMBER` captures its share of a plan.

It waits for one line before it begins. What it was told is printed at the end: `{"said": …, "got": {key: syssn}}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

from qfpay_preauth import Credentials, PreauthClient, PreauthError, Settings
from qfpay_preauth.testing import Config
from tests.support import QUICK

AT_ONCE = 12
CAPTURES = 24
AMOUNT = 1_000
TOTAL = 20 * AMOUNT + 200
"""What a hold holds: of its 24 captures about twenty fit."""
DEADLINE_S, EXCHANGE_S = 30.0, 5.0


@frozen
class Plan:
    """What all processes share."""

    gateway: str
    ledger: str
    seed: int
    processes: int
    syssns: tuple[str, ...]
    cancelled: float = 0.0
    """The part of the calls whose caller leaves."""

    def write(self, path: Path) -> None:
        """For the workers to read."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """What was written."""
        given = json.loads(path.read_text())
        return cls(**{**given, "syssns": tuple(given["syssns"])})

    def share(self, number: int) -> list[tuple[str, str, int]]:
        """(key, syssn, amount) of one process, in an order of its own; a third of all keys come twice or more."""
        dice = random.Random(f"{self.seed}/plan")
        mine = []
        for hold, syssn in enumerate(self.syssns):
            for capture in range(CAPTURES):
                owners = [dice.randrange(self.processes)]
                if dice.random() < 1 / 3:
                    owners += [dice.randrange(self.processes)]
                item = (f"hold-{hold}/capture-{capture}", syssn, AMOUNT + capture)
                mine += [item] * owners.count(number)
        random.Random(f"{self.seed}/{number}").shuffle(mine)
        return mine


def client_of_plan(plan: Plan) -> PreauthClient:
    """A client of the simulator and the ledger that the plan names."""
    config = Config()
    settings = Settings(**{**QUICK, "deadline_s": DEADLINE_S, "timeout_total_s": EXCHANGE_S})
    credentials = Credentials(config.app_code, config.client_key)
    return PreauthClient(credentials, base_url=plan.gateway, ledger=plan.ledger, settings=settings)


async def work(plan: Plan, number: int) -> dict[str, Any]:
    """Every key of the share, a few at a time."""
    said: Counter[str] = Counter()
    got: dict[str, str | None] = {}
    dice = random.Random(f"{plan.seed}/{number}/leaving")
    share = iter(plan.share(number))

    async def one_after_another(client: PreauthClient) -> None:
        for key, syssn, amount in share:
            call = asyncio.create_task(client.capture(syssn, amount, idempotency_key=key))
            if dice.random() < plan.cancelled:
                asyncio.get_running_loop().call_later(dice.random() * 0.1, call.cancel)
            try:
                capture = await call
            except PreauthError as error:
                said[type(error).__name__] += 1
            except asyncio.CancelledError:
                said["cancelled"] += 1
            else:
                said["replayed" if capture.replayed else "captured"] += 1
                got[key] = capture.syssn

    async with client_of_plan(plan) as client:
        _say("ready")
        await asyncio.to_thread(sys.stdin.readline)
        await asyncio.gather(*(one_after_another(client) for _ in range(AT_ONCE)))
    return {"said": said, "got": got}


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def live(plan: str, number: str) -> None:
    """Do what the words say."""
    logging.getLogger("qfpay_preauth").setLevel(logging.ERROR)  # lost answers are the point here
    _say(json.dumps(asyncio.run(work(Plan.read(Path(plan)), int(number)))))
