"""One merchant account of a run: its gateway with books of its own, its keys, its auditor, its notifications.

Where a run has two accounts, both gateways count from the same number, and callers use the same keys for both: only the
account tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qfpay_preauth import Credentials
from qfpay_preauth.testing._config import Config
from qfpay_preauth.testing._faults import Rule
from qfpay_preauth.testing._records import Hold
from tests.simulation import luck
from tests.simulation.auditor import Auditor
from tests.simulation.crowd import Crowd
from tests.simulation.postman import Postman
from tests.simulation.wire import Network, Sent, SimCore, SimFaults

if TYPE_CHECKING:
    from tests.simulation.world import World


class Site:
    """An account at its gateway."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.number = number
        self.account = f"account-{number}"
        self.keys: tuple[str, str | None] = ("KEY_OF_THE_FIRST_YEAR", None)
        self.holds: list[Hold] = []
        self.core = SimCore(self._config(), SimFaults(self._fault, self._notice_fault), self)
        self.network = Network(self)
        self.postman = Postman(self)
        self.crowd = Crowd(self)
        self.auditor = Auditor(self._fail, self.account, world.scenario)

    def _config(self) -> Config:
        on, given = self.world.scenario.on, dict(self.world.scenario.config)
        # two merchants under one app, or two apps
        given["mchid"] = f"MERCHANT{self.number}" if "mchid" in on else None
        given["app_code"] = "ONE_APP" if "mchid" in on else f"APP_{self.number}"
        return Config(client_key=self.keys[0], **given)

    def credentials(self) -> Credentials:
        """What the merchant's processes are started with now."""
        config, (key, previous) = self.core.config, self.keys
        sign_type = "MD5" if "md5" in self.world.scenario.on else "SHA256"
        return Credentials(
            config.app_code,
            key,
            mchid=config.mchid,
            sign_type=sign_type,
            previous_client_key=previous,
            account=self.account,
        )

    def rotate(self) -> bool:
        """Change the merchant's key, once; whether that was done."""
        if self.keys[1] is not None:
            return False
        self.keys = "KEY_OF_THE_SECOND_YEAR", self.keys[0]
        self.core.config.client_key, self.core.config.other_keys = self.keys[0], (str(self.keys[1]),)
        return True

    def on_executed(self, record: Any, cause: Sent | None) -> None:
        """The gateway moved money (or made a hold)."""
        if self.world.log is not None:
            whose = cause.key if cause else "others"
            kind = getattr(record, "kind", "hold")
            self.note(f"gateway: {kind} {record.syssn} of {record.amount} executed, by {whose}")
        self.auditor.on_executed(record, cause)
        self.postman.wake()

    def note(self, what: str) -> None:
        """One line of the history, with the account's number where there are several."""
        self.world.note(f"[{self.number}] {what}" if self.world.scenario.accounts > 1 else what)

    def _fail(self, invariant: str, what: str) -> None:
        self.world.fail(invariant, f"{self.account}: {what}" if self.world.scenario.accounts > 1 else what)

    def _fault(self, operation: str, params: Mapping[str, str]) -> Rule | None:
        world = self.world
        swap = self.core.waiting_swap is not None
        rate = world.scenario.fault_rate * (0.4 if operation == "query" else 1.0)
        if world.calm or (world.dice.random() >= rate and not swap):
            return None
        return luck.fault(self, operation)

    def _notice_fault(self) -> Rule | None:
        world = self.world
        if world.calm or world.dice.random() >= world.scenario.notice_rate:
            return None
        return luck.notice_fault(world)
