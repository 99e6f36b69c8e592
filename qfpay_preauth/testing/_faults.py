"""Which requests and notifications go wrong, and how: by rule or by seed.

What each kind does is in ``KINDS`` and ``NOTICE_KINDS``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import attrs

#: Kind -> what happens. "executed" means: the books are written as if nothing were wrong.
KINDS: Mapping[str, str] = MappingProxyType(
    {
        "drop_before": "connection closed (FIN) without answer, not executed",
        "drop_after": "executed, connection closed (FIN) without answer",
        "reset_before": "connection reset (RST), not executed",
        "reset_after": "executed, connection reset (RST)",
        "hang_before": "never answered, not executed; closed when released",
        "hang_after": "executed, never answered; answered when released",
        "rate_limited": "HTTP 429, not executed (`retry_after`: text of that header)",
        "status_before": "HTTP `status`, not executed",
        "status_after": "executed, HTTP `status`",
        "respcd": "HTTP 200 with respcd `code`; executed only if `executed`",
        "pending": "1143 with a syssn; ends with respcd `then` after `seconds` or at settle_pending()",
        "cut": "executed, the connection closes after `keep` bytes of the body (half of it if None)",
        "garbled": "executed, the body is `text`, which is not JSON",
        "huge": "executed, the body is padded with blanks to `size` bytes",
        "slow": "executed, the body comes in `pieces` with `seconds` between them",
        "redirect": "HTTP `status` (3xx) to `location`, not executed",
        "swapped": "executed; answers of two requests exchanged, the first waits for the second",
        "altered": "executed; `changes` to the answer's fields (None removes), or to `rows` of an enquiry",
        "missigned": "executed; the answer carries a wrong X-QF-SIGN",
        "late": "HTTP `status` now (0: closed), executed after `seconds` or at run_late()",
        "late_hang": "never answered, executed after `seconds` or at run_late()",
        "delay": "executed at once, answered after `seconds`",
        "hidden": "executed and rightly answered, but no enquiry ever shows its row",
        "shifted": "answered, then `count` foreign holds appear: the next page of an enquiry is shifted",
    }
)

#: The same for notifications, at each delivery. All but ``notice_repeated`` and ``notice_reordered`` leave the
#: notification unacknowledged, whatever the endpoint answers: the schedule goes on.
NOTICE_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "notice_lost": "not posted",
        "notice_unheard": "posted, the answer is not heard",
        "notice_repeated": "posted `count` times more, whatever is answered",
        "notice_reordered": "posted after all others that are due, or after `seconds`",
        "notice_wrong_key": "posted with `changes`, signed with another key",
        "notice_altered": "posted with `changes` (another amount, if none) and the old signature",
        "notice_reserialised": "posted with the same fields in other bytes and the old signature",
        "notice_unsigned": "posted without signature",
        "notice_oversize": "posted rightly signed, padded with blanks to `size` bytes (5 MB)",
    }
)

#: Kinds that end by themselves: the choice of ``Faults.random`` unless told otherwise.
QUICK_KINDS: tuple[str, ...] = (
    "drop_before",
    "drop_after",
    "reset_before",
    "reset_after",
    "rate_limited",
    "status_before",
    "status_after",
    "respcd",
    "pending",
    "cut",
    "garbled",
    "late",
)

_SIZE_DEFAULTS: Mapping[str, int] = {"huge": 1_048_576, "notice_oversize": 5_000_000}
_STATUS_DEFAULTS: Mapping[str, int] = {"redirect": 307, "late": 504}
_RANDOM_STATUSES = (404, 500, 502, 503, 504)
_RANDOM_CODES = ("1104", "1204", "1205", "1252", "1254", "1265", "1297")


@attrs.frozen(kw_only=True)
class Rule:
    """One fault and when it strikes.

    When: ``operation`` (``capture`` … or a path; ``None``: any), ``syssn``, ``amount`` (minor units) and
    ``out_trade_no`` as sent; the first ``after`` matches go well, the next ``times`` (``None``: all) do not.
    A notification is matched by the request that it is about (the freeze's: operation ``hold``).
    How: the other fields, used by the kinds whose ``KINDS`` entry names them. ``seconds`` ``None`` means: not
    by time (``pending``, ``late``) or 0. ``hidden``, with any kind: no enquiry ever shows the row of what is
    executed, now or late.
    Raises ``ValueError`` for an unknown kind.
    """

    kind: str = attrs.field()
    operation: str | None = None
    syssn: str | None = None
    amount: int | None = None
    out_trade_no: str | None = None
    times: int | None = 1
    after: int = 0

    status: int | None = None
    code: str = "1205"
    executed: bool = False
    then: str = "0000"
    seconds: float | None = None
    retry_after: str | None = None
    location: str = "http://127.0.0.1:9/"
    keep: int | None = None
    text: str = "<html><body>Bad Gateway</body></html>"
    size: int | None = None
    count: int = 1
    hidden: bool = False
    pieces: int = 8
    changes: Mapping[str, Any] = attrs.field(factory=dict)
    rows: bool = False

    @kind.validator
    def _known(self, _: object, value: str) -> None:
        if value not in KINDS and value not in NOTICE_KINDS:
            raise ValueError(f"unknown kind of fault {value!r}; known: {', '.join((*KINDS, *NOTICE_KINDS))}")

    @property
    def of_notices(self) -> bool:
        """Whether it strikes notifications, not requests."""
        return self.kind in NOTICE_KINDS

    @property
    def padded_size(self) -> int:
        """``size``, or what is usual for the kind."""
        return _SIZE_DEFAULTS.get(self.kind, 0) if self.size is None else self.size

    @property
    def http_status(self) -> int:
        """``status``, or what is usual for the kind."""
        return _STATUS_DEFAULTS.get(self.kind, 500) if self.status is None else self.status

    def matches(self, operation: str, path: str, params: Mapping[str, str]) -> bool:
        """Whether a request is one of those that this rule is about."""
        return (
            self.operation in (None, operation, path)
            and self.syssn in (None, params.get("syssn"))
            and self.out_trade_no in (None, params.get("out_trade_no"))
            and (self.amount is None or str(self.amount) == params.get("txamt"))
        )


class Faults:
    """The rules in force, the first match winning, and ``hits``: how often each kind struck."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self.hits: Counter[str] = Counter()
        self._rules: list[tuple[Rule, Counter[str]]] = []
        self._random: _Random | None = None
        for rule in rules:
            self.add(rule)

    @classmethod
    def random(cls, seed: int, rate: float, kinds: Iterable[str] = QUICK_KINDS, **how: Any) -> Faults:
        """Faults on a share ``rate`` (0 to 1) of all requests; the same seed and requests, the same faults.

        With ``NOTICE_KINDS`` among ``kinds``, on the same share of all deliveries of notifications.

        ``how`` are fields of ``Rule`` for every fault (``operation="capture"``, ``seconds=0.1`` …). Statuses
        and codes are drawn too unless given. Raises ``ValueError`` for an unknown kind or rate.
        """
        faults = cls()
        faults._random = _Random(seed, rate, tuple(kinds), how)
        return faults

    def add(self, rule: Rule | str, **how: Any) -> Rule:
        """Add a rule, or make one: ``add("drop_after", operation="capture")``. Raises ``ValueError``."""
        made = rule if isinstance(rule, Rule) else Rule(kind=rule, **how)
        self._rules.append((made, Counter()))
        return made

    def clear(self) -> None:
        """Everything goes well from now on; the counters stay."""
        self._rules.clear()
        self._random = None

    def pick(self, operation: str, path: str, params: Mapping[str, str]) -> Rule | None:
        """The rule that strikes this request, if any; counts it."""
        return self._pick(False, operation, path, params)

    def pick_notice(self, operation: str, params: Mapping[str, str]) -> Rule | None:
        """The rule that strikes this delivery of a notification, if any; counts it."""
        return self._pick(True, operation, "", params)

    def _pick(self, notices: bool, operation: str, path: str, params: Mapping[str, str]) -> Rule | None:
        rule = self._by_rule(notices, operation, path, params)
        if rule is None and self._random is not None:
            rule = self._random.draw(notices, operation, path, params)
        if rule is not None:
            self.hits[rule.kind] += 1
        return rule

    def _by_rule(self, notices: bool, operation: str, path: str, params: Mapping[str, str]) -> Rule | None:
        for rule, seen in self._rules:
            spent = rule.times is not None and seen["struck"] >= rule.times
            if spent or rule.of_notices is not notices or not rule.matches(operation, path, params):
                continue
            seen["matched"] += 1
            if seen["matched"] > rule.after:
                seen["struck"] += 1
                return rule
        return None


class _Random:
    def __init__(self, seed: int, rate: float, kinds: tuple[str, ...], how: Mapping[str, Any]) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must lie between 0 and 1, not {rate}")
        self._rate = rate
        rules = [Rule(kind=kind, **how) for kind in kinds]
        # Dice of their own, so that the requests' faults do not depend on when notifications are delivered.
        self._tables = {
            notices: (
                random.Random(f"notices {seed}" if notices else seed),
                [r for r in rules if r.of_notices is notices],
            )
            for notices in (False, True)
        }
        self._fixed = frozenset(how)

    def draw(self, notices: bool, operation: str, path: str, params: Mapping[str, str]) -> Rule | None:
        dice, rules = self._tables[notices]
        if not rules or dice.random() >= self._rate:
            return None
        rule = dice.choice(rules)
        if not rule.matches(operation, path, params):
            return None
        changes: dict[str, Any] = {}
        if rule.kind.startswith("status_") and "status" not in self._fixed:
            changes["status"] = dice.choice(_RANDOM_STATUSES)
        if rule.kind == "respcd" and "code" not in self._fixed:
            changes["code"] = dice.choice(_RANDOM_CODES)
        return attrs.evolve(rule, **changes)
