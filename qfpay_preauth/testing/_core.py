"""The whole gateway without a socket: a request and the time go in, a ``Plan`` comes out.

Deterministic: what is due later happens at the next call whose ``now`` has reached it, so a real clock and a
virtual one are served alike.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

import attrs

from ._books import Books
from ._config import Config
from ._courier import Courier
from ._faults import Faults
from ._notice import notification
from ._plan import Answer, Plan, Reply, Request, Wire
from ._protocol import OPERATIONS, check, parse_form, perform, refuse, sign_body, signature_ok
from ._records import Hold, Movement, Record, Refusal

JSON_TYPE = ("Content-Type", "application/json;charset=utf-8")
TEXT_TYPE = ("Content-Type", "text/plain;charset=utf-8")


@attrs.frozen
class _Task:
    group: str
    due: datetime | None
    run: Callable[[datetime], object]


class Core:
    """Books, faults and protocol together; ``handle`` is its only way in from the wire.

    Attributes: ``config``, ``books``, ``faults`` (replaceable), ``requests`` (every one received), ``courier``
    (the notifications that are to be delivered, and those that were).
    """

    def __init__(self, config: Config | None = None, faults: Faults | None = None) -> None:
        self.config = config or Config()
        self.books = Books(self.config)
        self.books.on_executed = self._notify
        self.faults = faults or Faults()
        self.courier = Courier()
        self.requests: list[Request] = []
        self.waiting_swap: tuple[int, Answer] | None = None
        self._tickets = 0
        self._tasks: list[_Task] = []
        self._second: deque[datetime] = deque()
        self._minute: deque[datetime] = deque()

    def handle(  # noqa: PLR0917
        self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime, remote: str = ""
    ) -> Plan:
        """Decide one request. ``headers`` names in any case; ``now`` aware; nothing is ever raised for a
        request, however wrong."""
        self.advance(now)
        lower = {name.lower(): value for name, value in headers.items()}
        path = path.partition("?")[0]
        if self.config.admin and path.startswith("/_sim/"):
            from ._admin import administer

            return administer(self, method, path, body, now)
        call = Call(self, method, path, lower, body, now)
        plan = self._decide(call)
        if self.config.record:
            self.requests.append(call.record(plan, remote))
        return plan

    def advance(self, now: datetime) -> None:
        """Do what has become due by ``now``, in order."""
        due = [task for task in self._tasks if task.due is not None and task.due <= now]
        for task in sorted(due, key=lambda task: task.due or now):
            self._tasks.remove(task)
            task.run(task.due or now)

    def schedule(self, group: str, now: datetime, seconds: float | None, run: Callable[[datetime], object]) -> None:
        """Remember to ``run`` after ``seconds`` (``None``: only when ``flush`` is called for the group)."""
        due = None if seconds is None else now + timedelta(seconds=seconds)
        self._tasks.append(_Task(group, due, run))

    def flush(self, group: str, now: datetime) -> int:
        """Run everything of a group now (``pending`` or ``late``); how many there were."""
        self.advance(now)
        chosen = [task for task in self._tasks if task.group == group]
        self._tasks = [task for task in self._tasks if task.group != group]
        for task in chosen:
            task.run(now)
        return len(chosen)

    def scheduled(self, group: str) -> int:
        """How many of a group are still to come."""
        return sum(task.group == group for task in self._tasks)

    def ticket(self) -> int:
        """A fresh number for a plan that waits for another's answer."""
        self._tickets += 1
        return self._tickets

    def encode(self, reply: Reply, status: int = 200) -> Answer:
        """An answer's bytes, signed if the configuration says so (QFPay, 2018: ``X-QF-SIGN``)."""
        body = json.dumps(reply).encode()
        signed = (("X-QF-SIGN", sign_body(body, self.config.client_key)),) if self.config.sign_answers else ()
        return Answer(status, (JSON_TYPE, *signed), body)

    def over_limit(self, now: datetime) -> bool:
        """Count a request; whether it is above 100 in a second or 400 in a minute (QFPay: "Rate limit")."""
        windows = ((self._second, self.config.per_second, 1), (self._minute, self.config.per_minute, 60))
        for moments, _, seconds in windows:
            while moments and now - moments[0] >= timedelta(seconds=seconds):
                moments.popleft()
        if any(len(moments) >= limit for moments, limit, _ in windows):
            return True
        for moments, _, _ in windows:
            moments.append(now)
        return False

    def _notify(self, record: Record, at: datetime) -> None:
        """Only what is executed is notified, and only where there is somewhere to send it (QFPay: "Asynchronous
        notifications")."""
        wanted = self.config.notify_freeze or not isinstance(record, Hold)
        if self.config.notify_url is not None and wanted:
            body, headers = notification(self.books, record.syssn, {})
            self.courier.add(record, body, headers, at + self.config.notify_delay)

    def _decide(self, call: Call) -> Plan:
        if not call.operation:
            return Plan(answer=plain(404, "no such endpoint"))
        if call.method != "POST":
            return Plan(answer=plain(405, "POST only"))
        if self.config.rate_limit and self.over_limit(call.now):
            return Plan(answer=plain(429, "too many requests"))
        rule = self.faults.pick(call.operation, call.path, call.params)
        if rule is None:
            return Plan(answer=self.encode(call.perform()), executed=call.executed)
        from ._spoil import spoil

        call.hide = rule.hidden or rule.kind == "hidden"
        return attrs.evolve(spoil(call, rule), fault=rule.kind, executed=call.executed)


class Call:
    """One request on its way through the gateway."""

    def __init__(  # noqa: PLR0917
        self, core: Core, method: str, path: str, headers: Mapping[str, str], body: bytes, now: datetime
    ) -> None:
        self.core = core
        self.method = method
        self.path = path
        self.headers = headers
        self.now = now
        self.operation = OPERATIONS.get(path, "")
        self.executed: str | None = None
        self.moved: Movement | None = None
        #: Whether the row of what it moves is hidden from every enquiry.
        self.hide = False
        self.params: dict[str, str] = {}
        self._unreadable: Refusal | None = None
        try:
            self.params = parse_form(body)
        except Refusal as refusal:
            self._unreadable = refusal
        self.signed = signature_ok(core.config, headers, self.params)

    def perform(self, at: datetime | None = None, *, pending: bool = False) -> Reply:
        """Check and execute the request (at its own moment unless told): the answer, a refusal included."""
        try:
            if self._unreadable is not None:
                raise self._unreadable
            check(self.core.config, self.operation, self.headers, self.params, self.signed)
            reply, moved = perform(self.core.books, self.operation, self.params, at or self.now, pending)
        except Refusal as refusal:
            return refuse(self.core.config, refusal)
        self.moved = moved
        if self.hide and moved is not None:
            self.core.books.hidden.add(moved.syssn)
        # An execution after the answer is not this plan's.
        self.executed = moved.syssn if moved is not None and moved.executed and at is None else None
        return reply

    def record(self, plan: Plan, remote: str) -> Request:
        """What is kept of the request."""
        return Request(
            at=self.now,
            method=self.method,
            path=self.path,
            operation=self.operation,
            params=self.params,
            headers=self.headers,
            signature_ok=self.signed,
            remote=remote,
            fault=plan.fault,
            executed=plan.executed,
        )


def plain(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    """An answer that is not the gateway's own but a web server's in front of it."""
    return Answer(status, (TEXT_TYPE, *headers), text.encode())


def silent(wire: Wire) -> Plan:
    """A plan without an answer."""
    return Plan(wire=wire)
