"""The auditor: watches every write of the ledger and every move of the gateway, and keeps books of its own.

It shares no code with the ledger, the judge or the rules of evidence: it folds the values that were committed and the
gateway's own movements, and knows, as only a simulation can, for which key every request was sent. The invariants are
those of the design: I1 to I16. One indistinguishable case is allowed and nothing more (see `_may_be_mistaken`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from qfpay_preauth._models import Authorization, ConfirmedBy, Entry, Movement, Operation, State, Why
from qfpay_preauth.testing._records import Hold as GatewayHold
from qfpay_preauth.testing._records import Movement as Moved
from tests.simulation.loop import KEY
from tests.simulation.wire import Sent
from tests.simulation.words import done_sum, short

if TYPE_CHECKING:
    from tests.simulation.drawing import Scenario

FORGED = "forged"
CAPTURE, UNFREEZE, REFUND = Operation.CAPTURE, Operation.UNFREEZE, Operation.REFUND
_MARGIN = timedelta(seconds=61)
_CLOCKS = timedelta(seconds=3)  # two clocks differ by no more


class Auditor:
    """Independent books of one account in one run; `fail` hears each invariant that is broken, and how."""

    def __init__(self, fail: Callable[[str, str], None], account: str, scenario: Scenario) -> None:
        self.fail = fail
        self._account = account
        settings, words = scenario.settings, scenario.config["order_types"]
        self._limits = ((1.0, settings["requests_per_second"]), (60.0, settings["requests_per_minute"]))
        self._one_budget = "shared_budget" in scenario.on  # of all processes; else each one has its own
        self._strict = bool(settings.get("strict_expiry"))
        self._window = settings.get("default_capture_window")
        self.entries: dict[str, Entry] = {}
        self.holds: dict[str, Authorization] = {}
        self.movements: dict[str, Movement] = {}
        self.events: list[Any] = []
        self.discrepancies: list[Any] = []
        self.notices: set[str] = set()
        self.sent: defaultdict[tuple[str, int], list[Sent]] = defaultdict(list)
        self.executions: defaultdict[str, list[tuple[int, Moved]]] = defaultdict(list)
        self.made_by: dict[str, str] = {}
        self.gateway: dict[str, Moved] = {}
        self.gateway_holds: dict[str, GatewayHold] = {}
        self.forced: dict[str, str] = {}
        self.last_sent: dict[str, float] = {}
        self.words_differ = words["capture"] != words["unfreeze"]
        self._requests: defaultdict[str, list[float]] = defaultdict(list)

    # ------------------------------------------------------------------ the wire

    def on_sent(self, sent: Sent, now: float) -> None:
        """A body left a process: I3, I10, I13."""
        self._count(sent, now)
        if not sent.operation:
            return
        entry = self.entries.get(sent.key or "")
        if entry is None:
            self.fail("I3", f"a {sent.operation} was sent for {sent.key} before anything was committed")
            return
        sent.attempt = entry.attempt
        self.last_sent[entry.idempotency_key] = now
        said = (sent.operation, sent.params.get("syssn"), sent.params.get("txamt"))
        if said != (entry.operation.value, entry.syssn, str(entry.amount)):
            self.fail("I3", f"sent {said}, committed {short(entry)}")
        if entry.state is not State.HELD:
            self.fail("I3", f"sent for an entry that is {short(entry)}")
        if sent.at >= entry.send_by:
            self.fail("I3", f"sent after its send-by: {short(entry)}")
        if entry.operation is CAPTURE and self._closed(entry.authorization, but=entry.idempotency_key):
            self.fail("I10", f"a capture was sent while an unfreeze is held, in doubt or executed: {short(entry)}")
        before = self.sent[entry.idempotency_key, entry.attempt]
        if any(not each.refused for each in before):
            self.fail("I4", f"sent again though the first may have been executed: {short(entry)}")
        before.append(sent)

    def _count(self, sent: Sent, now: float) -> None:
        who = "all processes" if self._one_budget else sent.incarnation
        moments = self._requests[who]
        moments.append(now)
        for window, limit in self._limits:
            if len(moments) > limit and moments[-1 - limit] > now - window:
                self.fail("I13", f"{who}: more than {limit} requests in {window:.0f} s")

    def on_executed(self, record: Any, cause: Sent | None) -> None:
        """The gateway moved money: I2, I4, I5."""
        if isinstance(record, GatewayHold):
            self.gateway_holds[record.syssn] = record
            return
        self.gateway[record.syssn] = record
        total = sum(each.amount for each in self._at_gateway(record.hold_syssn) if each.kind != "refund")
        if total > self.gateway_holds[record.hold_syssn].amount:
            self.fail("I2", f"the gateway's total on {record.hold_syssn} is {total}")
        if cause is None or cause.key is None:
            return
        self.made_by[record.syssn] = cause.key
        done = self.executions[cause.key]
        done.append((cause.attempt, record))
        if len(done) > 1:
            self.fail("I4", f"{cause.key} was executed {len(done)} times")
        entry = self.entries.get(cause.key)
        if entry is not None and entry.state is State.NOT_EXECUTED and cause.key not in self.forced:
            self.fail("I5", f"executed as {record.syssn}, though it had ended: {short(entry)}")
        if record.kind == "unfreeze" and sum(m.kind == "unfreeze" for m in self._at_gateway(record.hold_syssn)) > 1:
            self.fail("I10", f"{record.hold_syssn} was unfrozen twice")

    def _at_gateway(self, hold: str) -> list[Moved]:
        return [each for each in self.gateway.values() if each.hold_syssn == hold]

    # ------------------------------------------------------------------ the ledger

    def on_commit(self, verb: str, error: Exception | None, written: Sequence[tuple[str, Any]], now: datetime) -> None:
        """One verb was committed (or refused), with everything it wrote; `now` is the true time."""
        self._now = now
        if error is not None and written:
            self.fail("I7", f"{verb} refused with {type(error).__name__} after it had written")
        if verb == "notice" and (KEY.get() or "").startswith(FORGED):
            self.fail("I16", "a forged notification reached the ledger")
        touched: dict[str, None] = {}
        reserved: list[Entry] = []
        for kind, value in written:
            if kind == "entry":
                if self._entry(value):
                    reserved.append(value)
                touched[value.authorization] = None
            elif kind == "hold":
                self.holds[value.syssn] = value
                touched[value.syssn] = None
            elif kind == "movement":
                self._movement(value)
                touched[value.authorization] = None
            elif kind == "event":
                self.events.append(value)
            elif kind == "discrepancy":
                self.discrepancies.append(value)
            elif kind == "notice":
                self.notices.add(value.digest)
        for entry in reserved:
            self._admitted(entry)
        for hold in touched:
            self._balanced(hold)

    def _entry(self, new: Entry) -> bool:
        """I8, I5, I6 for one entry that was put; whether it was reserved by this."""
        key = new.idempotency_key
        if new.account != self._account:
            self.fail("I6", f"an entry of another account: {short(new)}")
        old, self.entries[key] = self.entries.get(key), new
        if old is None:
            if new.state is not State.HELD:
                self.fail("I3", f"an entry begins as {short(new)}")
            return True
        identity = ("account", "idempotency_key", "operation", "authorization", "syssn", "currency")
        if any(getattr(old, name) != getattr(new, name) for name in identity):
            self.fail("I8", f"{short(old)} became {short(new)}")
        if new.state is State.HELD and old.state is not State.HELD:
            if old.state is not State.NOT_EXECUTED or not old.rerunnable or new.attempt != old.attempt + 1:
                self.fail("I8", f"{short(old)} was reserved again as {short(new)}")
            return True
        if new.amount != old.amount or new.attempt != old.attempt:
            self.fail("I8", f"{short(old)} became {short(new)}")
        if not old.unresolved and new != old:
            self.fail("I8", f"an ended entry changed: {short(old)} became {short(new)}")
        if old.unresolved and not new.unresolved:
            stranger = new.confirmed_by is not None and new.confirmed_by is not ConfirmedBy.ANSWER
            if stranger and old.state is State.HELD and self._now < old.doubt_at - _CLOCKS:
                self.fail("I8", f"ended by {new.confirmed_by} while it may be under way: {short(new)}")
            self._ended(new)
        return False

    def _ended(self, entry: Entry) -> None:
        key = entry.idempotency_key
        operator = entry.why is Why.OPERATOR or entry.confirmed_by is ConfirmedBy.OPERATOR
        if operator and key not in self.forced:
            self.fail("I8", f"ended as an operator's decision that nobody made: {short(entry)}")
        if operator:
            return
        done = [moved for attempt, moved in self.executions[key] if attempt == entry.attempt]
        if entry.state is State.NOT_EXECUTED and done:
            self.fail("I5", f"ended not executed, but the gateway executed {done[0].syssn}: {short(entry)}")
        if entry.state is State.EXECUTED:
            self._truly(entry)

    def _truly(self, entry: Entry) -> None:
        """I6: what ended as executed is the gateway's movement, and its own."""
        moved = self.gateway.get(entry.result_syssn or "")
        if moved is None:
            self.fail("I6", f"executed as {entry.result_syssn}, which the gateway has not executed: {short(entry)}")
            return
        right = (moved.kind, moved.orig_syssn, moved.amount) == (entry.operation.value, entry.syssn, entry.amount)
        if not right and not self._may_be_mistaken(entry, moved):
            self.fail("I6", f"executed as a {moved.kind} of {moved.amount} of {moved.orig_syssn}: {short(entry)}")
        elif self.made_by.get(moved.syssn) != entry.idempotency_key and not self._may_be_mistaken(entry, moved):
            self.fail("I6", f"executed as {moved.syssn}, which {self.made_by.get(moved.syssn)} made: {short(entry)}")

    def _may_be_mistaken(self, entry: Entry, moved: Moved) -> bool:
        """What no rule of evidence can tell from an entry's own execution, and nothing more: a movement of the merchant
        portal on the same original, of the very amount, made after the reservation, while the entry was in doubt, that
        carries no number. Of the same kind; or a capture of the whole remainder, where the rest is being unfrozen and
        the gateway's words do not tell a capture from an unfreeze. What a person wrongly said not to have happened is
        like a movement of the portal, and so is what was left over when the portal's was taken for it."""
        maker = self.made_by.get(moved.syssn, "")
        misjudged = self.forced.get(maker) == "wrong"
        other = self.entries.get(maker)
        left_over = (
            other is not None and other.state is State.EXECUTED and other.result_syssn not in (None, moved.syssn)
        )
        if not (moved.portal or misjudged or left_over) or entry.confirmed_by is ConfirmedBy.ANSWER:
            return False
        alike = (moved.orig_syssn, moved.amount) == (entry.syssn, entry.amount)
        in_time = moved.at is not None and moved.at >= entry.reserved_at - _MARGIN
        kinds = [entry.operation.value]
        answered = {
            each.operation
            for each in self.entries.values()
            if each.state is State.EXECUTED and each.confirmed_by is ConfirmedBy.ANSWER
        }
        told = self.words_differ and answered >= {CAPTURE, UNFREEZE}  # both words were seen
        if entry.operation is UNFREEZE and not told:
            kinds.append("capture")
        return alike and in_time and moved.kind in kinds

    def _movement(self, new: Movement) -> None:
        """I6: each syssn belongs to one; ours is never booked as made elsewhere while it is in doubt."""
        old, self.movements[new.syssn] = self.movements.get(new.syssn), new
        if old is not None and old.idempotency_key != new.idempotency_key:
            self.fail("I6", f"{new.syssn} went from {old.idempotency_key} to {new.idempotency_key}")
        if new.kind == "authorization" or new.idempotency_key is not None:
            return
        maker = self.made_by.get(new.syssn)
        entry = self.entries.get(maker or "")
        if old is None and entry is not None and entry.unresolved:
            self.fail("I6", f"our own {new.syssn} was booked as made elsewhere: {short(entry)}")
        if old is None and new.syssn not in self.gateway:
            self.fail("I6", f"{new.syssn} was booked as made elsewhere, and the gateway has not executed it")

    def _admitted(self, new: Entry) -> None:
        """I1, I10, I11 and the rule of twins at the moment of a reservation."""
        hold = self.holds.get(new.authorization)
        if hold is None:
            self.fail("I1", f"reserved on a hold that nobody registered: {short(new)}")
            return
        others = [e for e in self._of(new.authorization) if e is not new]
        if new.operation is REFUND:
            capture = self.movements.get(new.syssn)
            claims = sum(e.amount for e in others if e.syssn == new.syssn and e.state is not State.NOT_EXECUTED)
            if capture is None or not capture.executed or claims + new.amount > capture.amount:
                self.fail("I11", f"refunds of {new.syssn} are {claims}, and {short(new)} was admitted")
            return
        if self._strict and new.operation is CAPTURE:
            window = hold.capture_window or self._window
            if window is not None and new.reserved_at >= (hold.authorized_at or hold.registered_at) + window:
                self.fail("I1", f"reserved after the capture window, which binds: {short(new)}")
        taken = self._taken(new.authorization)
        if taken > hold.amount:
            self.fail("I1", f"{taken} of {hold.amount} taken or claimed after {short(new)}")
        if self._closed(new.authorization, but=new.idempotency_key):
            self.fail("I10", f"admitted beside an unfreeze: {short(new)}")
        twins = [e for e in others if e.unresolved and e.operation is CAPTURE]
        if new.operation is UNFREEZE and twins:
            self.fail("I10", f"an unfreeze was admitted while a capture is unresolved: {short(twins[0])}")
        if new.operation is UNFREEZE and taken != hold.amount:
            self.fail("I10", f"an unfreeze of {new.amount} is not the remainder ({taken} of {hold.amount} taken)")
        if any(e.amount == new.amount for e in twins) and new.operation is CAPTURE:
            self.fail("I1", f"two unresolved captures of {new.amount} on one hold")

    def _of(self, hold: str) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.authorization == hold]

    def _closed(self, hold: str, *, but: str) -> bool:
        return any(
            e.operation is UNFREEZE and e.state is not State.NOT_EXECUTED and e.idempotency_key != but
            for e in self._of(hold)
        )

    def foreign(self, hold: str) -> list[Movement]:
        """Movements of a hold that no executed entry stands for."""
        return [m for m in self.movements.values() if m.authorization == hold and m.executed and self._is_foreign(m)]

    def _is_foreign(self, moved: Movement) -> bool:
        entry = self.entries.get(moved.idempotency_key or "")
        return moved.kind != "authorization" and (entry is None or entry.state is not State.EXECUTED)

    def _taken(self, hold: str) -> int:
        ours = sum(e.amount for e in self._of(hold) if e.operation is not REFUND and e.state is not State.NOT_EXECUTED)
        return ours + sum(m.amount for m in self.foreign(hold) if m.kind != "refund")

    def _balanced(self, syssn: str) -> None:
        """I7: the stored sums are what the entries and movements add up to."""
        hold = self.holds.get(syssn)
        if hold is None:
            return
        entries, foreign = self._of(syssn), self.foreign(syssn)
        money = [e for e in entries if e.operation is not REFUND]
        want = {
            "claimed": sum(e.amount for e in money if e.unresolved),
            "captured": done_sum(entries, CAPTURE),
            "unfrozen": done_sum(entries, UNFREEZE),
            "refunded": done_sum(entries, REFUND),
            "foreign_unfrozen": sum(m.amount for m in foreign if m.kind == "unfreeze"),
            "foreign_captured": sum(m.amount for m in foreign if m.kind in ("capture", "unknown")),
            "foreign_refunded": sum(m.amount for m in foreign if m.kind == "refund"),
        }
        for name, value in want.items():
            if getattr(hold, name) != value:
                self.fail("I7", f"{syssn}: {name} is {getattr(hold, name)}, and its entries and movements say {value}")
