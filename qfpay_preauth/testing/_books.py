"""The gateway's own books: holds and what became of them. Pure: no I/O, no clock (``now`` is passed in).

An independent witness: it shares no code with the client, so that the two can disagree.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from hashlib import md5

import attrs

from ._config import GATEWAY_ZONE, Config
from ._records import DONE, PENDING, Hold, Intent, Movement, Record, Refusal, Totals, Write


class Books:
    """Every hold, its movements, and the rules between them (QFPay: "Pre-authorization")."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.holds: dict[str, Hold] = {}
        self.movements: dict[str, Movement] = {}
        self.intents: dict[str, Intent] = {}
        #: Every syssn in the order it was given out.
        self.order: list[str] = []
        self._counter = self.config.syssn_start
        self._journal: list[str] = []
        self._of_hold: defaultdict[str, list[str]] = defaultdict(list)
        # Executed and pending together: of a hold captures and unfreeze, of a capture its refunds.
        self._claimed: Counter[str] = Counter()
        self._closed_by: dict[str, str] = {}
        self._numbers: set[str] = set()
        self._last_refund: dict[str, datetime] = {}
        #: Every syssn whose row no enquiry ever shows.
        self.hidden: set[str] = set()
        #: Told of every hold and of every movement at the moment it is executed.
        self.on_executed: Callable[[Record, datetime], object] = lambda record, at: None

    # -- what happens ------------------------------------------------------------------------------------

    def hold(self, amount: int, currency: str, now: datetime, out_trade_no: str | None = None) -> Hold:
        """Hold ``amount`` minor units, as the customer does in the browser. Raises ``ValueError`` below 1."""
        if amount < 1:
            raise ValueError(f"a hold needs a positive amount, not {amount}")
        syssn = self._next_syssn(now)
        hold = Hold(
            syssn=syssn,
            amount=amount,
            currency=currency,
            out_trade_no=out_trade_no or f"ORDER_{syssn[-8:]}",
            at=now,
            expires_at=now + self.config.capture_window,
        )
        self.holds[syssn] = hold
        self.on_executed(hold, now)
        return hold

    def intend(self, amount: int, currency: str, out_trade_no: str, now: datetime) -> Intent:
        """Create a payment intent, valid for an hour (QFPay: "Create payment intent")."""
        self._counter += 1
        intent = Intent(
            token=md5(f"intent {self._counter}".encode(), usedforsecurity=False).hexdigest(),
            amount=amount,
            currency=currency,
            out_trade_no=out_trade_no,
            at=now,
            expires_at=now + timedelta(hours=1),
        )
        self.intents[intent.token] = intent
        return intent

    def confirm(self, token: str, now: datetime) -> Hold:
        """Turn an intent into a hold, as the browser does. Raises ``KeyError`` if it is unknown or used."""
        intent = self.intents.pop(token)
        return self.hold(intent.amount, intent.currency, now, intent.out_trade_no)

    def capture(self, write: Write, now: datetime) -> Movement:
        """Take part or all of a hold (QFPay: "Capture"). Raises ``Refusal``."""
        hold = self._open_hold(write, now)
        if self.config.enforce and write.amount > self.left(hold.syssn):
            raise Refusal("over_capture", f"{write.amount} asked, {self.left(hold.syssn)} left")
        self._use_number(write.out_trade_no)
        return self._enter("capture", hold, hold.syssn, write, now)

    def unfreeze(self, write: Write, now: datetime) -> Movement:
        """Release the uncaptured rest, once, for good (QFPay: "Unfreeze"). Raises ``Refusal``."""
        hold = self._open_hold(write, now, closed="already_unfrozen")
        if not write.portal and write.out_trade_no != hold.out_trade_no:
            raise Refusal("mismatch", "out_trade_no is not the pre-authorization's")
        left = self.left(hold.syssn)
        short = write.amount < left and not self.config.partial_unfreeze
        if self.config.enforce and (write.amount > left or short):
            raise Refusal("unfreeze_amount", f"{write.amount} asked, {left} left")
        movement = self._enter("unfreeze", hold, hold.syssn, write, now)
        self._closed_by[hold.syssn] = movement.syssn
        return movement

    def refund(self, write: Write, now: datetime) -> Movement:
        """Give back part or all of a capture (QFPay: "Refund"). Raises ``Refusal``."""
        capture = self.movements.get(write.syssn)
        if capture is None or capture.kind != "capture":
            raise Refusal("capture_unknown", f"no capture {write.syssn}")
        if not capture.executed:
            raise Refusal("capture_unpaid", f"capture {write.syssn} is {capture.code}")
        self._check_refund(capture, write, now)
        self._use_number(write.out_trade_no)
        self._last_refund[capture.hold_syssn] = now
        return self._enter("refund", self.holds[capture.hold_syssn], capture.syssn, write, now)

    def settle(self, syssn: str, now: datetime, code: str = DONE) -> Movement:
        """End a pending movement: ``0000`` executes it, any other code refuses it."""
        before = self.movements[syssn]
        if before.code != PENDING:
            raise ValueError(f"{syssn} is not pending but {before.code}")
        after = attrs.evolve(before, code=code, at=now if code == DONE else None)
        self.movements[syssn] = after
        if code == DONE:
            self._execute(after, now)
        else:
            self._claimed[before.orig_syssn] -= before.amount
            self._reopen(before)
        return after

    # -- what auditors read ------------------------------------------------------------------------------

    def executions(self, syssn: str | None = None) -> tuple[Movement, ...]:
        """Everything that moved money, in the order it did; of one hold if ``syssn`` names one."""
        done = (self.movements[each] for each in self._journal)
        return tuple(each for each in done if syssn is None or each.hold_syssn == syssn)

    def of_hold(self, syssn: str) -> Iterator[Movement]:
        """The movements of a hold in the order they were accepted."""
        return (self.movements[each] for each in self._of_hold[syssn])

    def totals(self, syssn: str) -> Totals:
        """Sums of one hold, folded from its movements. Raises ``KeyError`` if it is unknown."""
        sums: Counter[str] = Counter()
        for movement in self.of_hold(syssn):
            if movement.executed:
                sums[movement.kind] += movement.amount
            elif movement.code == PENDING:
                sums["pending"] += movement.amount
        return Totals(
            authorized=self.holds[syssn].amount,
            captured=sums["capture"],
            unfrozen=sums["unfreeze"],
            refunded=sums["refund"],
            pending=sums["pending"],
        )

    def refunded(self, capture_syssn: str) -> int:
        """Minor units given back of one capture."""
        capture = self.movements[capture_syssn]
        return sum(
            each.amount
            for each in self.of_hold(capture.hold_syssn)
            if each.executed and each.kind == "refund" and each.orig_syssn == capture_syssn
        )

    def left(self, syssn: str) -> int:
        """Minor units of a hold or capture that nothing, executed or pending, has claimed. Raises ``KeyError``."""
        record = self.holds.get(syssn) or self.movements[syssn]
        return record.amount - self._claimed[syssn]

    def number_shown(self, record: Record) -> str:
        """The ``out_trade_no`` that rows and notifications carry (``Config.shown_numbers``)."""
        way = "own" if isinstance(record, Hold) else self.config.shown_numbers.get(record.kind, "own")
        if isinstance(record, Hold) or way == "own":
            return record.out_trade_no
        return self.holds[record.hold_syssn].out_trade_no if way == "hold" else ""

    def audit(self) -> list[str]:
        """Every broken rule in words, found by a fold of its own; empty when the books are sound."""
        from ._audit import violations

        return violations(self)

    # -- rules -------------------------------------------------------------------------------------------

    def _open_hold(self, write: Write, now: datetime, closed: str = "hold_closed") -> Hold:
        hold = self.holds.get(write.syssn)
        if hold is None:
            raise Refusal("hold_unknown", f"no pre-authorization {write.syssn}")
        if write.currency not in (None, hold.currency):
            raise Refusal("mismatch", f"the pre-authorization is in {hold.currency}")
        if not self.config.enforce:
            return hold
        if hold.syssn in self._closed_by:
            raise Refusal(closed, f"{hold.syssn} is finished")
        if now >= hold.expires_at:
            raise Refusal("hold_expired", f"{hold.syssn} expired")
        return hold

    def _check_refund(self, capture: Movement, write: Write, now: datetime) -> None:
        if write.currency not in (None, capture.currency):
            raise Refusal("mismatch", f"the capture is in {capture.currency}")
        left = self.left(capture.syssn)
        if self.config.enforce and write.amount > left:
            raise Refusal("over_refund", f"{write.amount} asked, {left} left")
        same_day = _day(capture.at or now) == _day(now)
        if self.config.same_day_full_refund and same_day and write.amount != capture.amount:
            raise Refusal("partial_same_day", "a refund on the same day must be full")
        last = self._last_refund.get(capture.hold_syssn)
        if last is not None and now - last < self.config.refund_gap:
            raise Refusal("refund_too_soon", "another refund was made moments ago")

    def _use_number(self, number: str) -> None:
        if not number:
            return
        if self.config.unique_numbers and number in self._numbers:
            raise Refusal("number_used", f"out_trade_no {number} is used")
        self._numbers.add(number)

    def _enter(self, kind: str, hold: Hold, orig: str, write: Write, now: datetime) -> Movement:
        movement = Movement(
            syssn=self._next_syssn(now),
            kind=kind,
            orig_syssn=orig,
            hold_syssn=hold.syssn,
            amount=write.amount,
            currency=hold.currency,
            out_trade_no=write.out_trade_no,
            txdtm=write.txdtm,
            accepted_at=now,
            code=PENDING if write.pending else DONE,
            at=None if write.pending else now,
            portal=write.portal,
        )
        self.movements[movement.syssn] = movement
        self._of_hold[hold.syssn].append(movement.syssn)
        self._claimed[orig] += movement.amount
        if movement.executed:
            self._execute(movement, now)
        return movement

    def _execute(self, movement: Movement, now: datetime) -> None:
        self._journal.append(movement.syssn)
        self.on_executed(movement, now)

    def _reopen(self, movement: Movement) -> None:
        if self._closed_by.get(movement.hold_syssn) == movement.syssn:
            del self._closed_by[movement.hold_syssn]

    def _next_syssn(self, now: datetime) -> str:
        syssn = f"{_day(now)}1805000200{self._counter:08d}"
        self._counter += 1
        self.order.append(syssn)
        return syssn


def _day(moment: datetime) -> str:
    return moment.astimezone(GATEWAY_ZONE).strftime("%Y%m%d")
