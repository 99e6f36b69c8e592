"""What one seed means: which kinds of trouble are on, how the account and the client are set, and what is done when.

Swarm testing: every seed switches a random subset of everything on, so that rare combinations come up pure.
Two bounds keep the drawn world inside what the rules promise: the clocks of two processes (and the gateway's) differ
by less than `timeout_total_s` and less than the evidence's margin; and a quiet period, where one is set, is longer than
the latest execution, the lag of the enquiry and the clocks' difference together. Beyond them no rule could be right.
Rows that are never shown are only drawn where absence can end nothing.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.simulation.kinds import ALL_KINDS, LOSSES, TROUBLES

CLOCK_S = 1.5
"""No clock is further from the true time than this."""


@dataclass(slots=True)
class Step:
    """One thing that is done at a time; `args` are its own."""

    at: float
    what: str
    process: int
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Scenario:
    """One seed's world."""

    seed: int
    start: datetime
    on: frozenset[str]
    processes: int
    accounts: int
    holds: list[int]
    """Amounts; the first hold is the first account's, the second the second's, and so on in turn."""
    ages: list[float]
    """How many seconds before the run each hold was made."""
    before: list[tuple[int, int, float]]
    """Captures made in the portal before the run: hold, amount, how many seconds before."""
    page_size: int
    steps: list[Step]
    config: dict[str, Any]
    settings: dict[str, Any]
    fault_rate: float
    notice_rate: float
    ledger_rate: float
    latency_s: float
    late_s: float
    sqlite: bool
    reconciler: bool
    live: bool
    window: timedelta | None
    length_s: float


def draw(seed: int, focus: frozenset[str] = frozenset()) -> Scenario:
    """The scenario of a seed: the same for ever. `focus` names kinds that are switched on whatever was drawn."""
    dice = random.Random(seed)
    share = dice.choice((0.08, 0.2, 0.35))
    on = frozenset(kind for kind in ALL_KINDS if dice.random() < share)
    on |= frozenset(dice.sample(LOSSES, dice.choice((0, 1, 1, 2)))) | focus
    on -= _dear(dice) - focus
    processes = dice.choice((1, 1, 2, 2, 3))
    length = dice.choice((12.0, 30.0, 60.0, 240.0))
    late = dice.choice((1.0, 8.0, 25.0))
    settings = _settings(dice, on)
    config = _config(dice, on)
    if "quiet_period" in on:
        settings["quiet_period_s"] = late + config["query_lag"].total_seconds() + 4 * CLOCK_S + 5.0
    if "crowd" in on:
        on -= {"lapse"}  # days of enquiries, of two pages each
    if on & {"quiet_period", "lapse"}:
        on -= {"hidden"}  # a row that is never shown cannot be told from one that never was
    accounts = 2 if "accounts" in on else 1
    holds = [dice.choice((600, 1000, 1500, 2000)) for _ in range(accounts * dice.choice((1, 2, 2)))]
    window = timedelta(days=7) if "lapse" in on or dice.random() < 0.2 else None
    age_s = 0.0
    if "strict_expiry" in on:  # it ends while the run is on, for the gateway too
        window = config["capture_window"] = timedelta(seconds=length + 60.0)
        age_s = length + 60.0 - dice.choice((3.0, length / 2))
        settings["default_capture_window"] = dice.choice((None, window))
    scenario = Scenario(
        seed=seed,
        start=_start(dice, on),
        on=on,
        processes=processes,
        accounts=accounts,
        holds=holds,
        ages=[age_s] * len(holds),
        before=[],
        page_size=dice.choice((2, 3, 5)) if "small_pages" in on else 100,
        steps=[],
        config=config,
        settings=settings,
        fault_rate=dice.choice((0.1, 0.3, 0.5)),
        notice_rate=dice.choice((0.0, 0.3, 0.6)),
        ledger_rate=dice.choice((0.02, 0.08)),
        latency_s=dice.choice((0.01, 0.2, 1.0)),
        late_s=late,
        sqlite=dice.random() < 0.12,
        reconciler=dice.random() < 0.2,
        live=dice.random() < 0.55 or "lapse" in on,
        window=window,
        length_s=length,
    )
    scenario.steps = _steps(dice, scenario)
    return scenario


def _dear(dice: random.Random) -> set[str]:
    """What costs much time is left out of most runs: days of enquiries, and enquiries of many rows."""
    return {kind for kind, share in (("lapse", 0.7), ("crowd", 0.75)) if dice.random() < share}


def _start(dice: random.Random, on: frozenset[str]) -> datetime:
    if "month_edge" in on:  # midnight between two months in UTC+8
        return datetime(2026, dice.randint(1, 12), 1, tzinfo=UTC) - timedelta(hours=8, seconds=dice.uniform(0, 20))
    return datetime(2026, 3, 10, 4, tzinfo=UTC) + timedelta(hours=dice.randint(0, 300))


def _settings(dice: random.Random, on: frozenset[str]) -> dict[str, Any]:
    tight = dice.random() < (0.5 if "shared_budget" in on else 0.12)
    return {
        "timeout_total_s": 5.0,
        "timeout_connect_s": 2.0,
        "deadline_s": dice.choice((4.0, 9.0, 20.0)),
        "attempts_max": dice.choice((1, 2, 3)),
        "backoff_initial_s": 0.2,
        "backoff_max_s": 2.0,
        "patience_s": dice.choice((0.0, 0.0, 2.0, 6.0)),
        "requests_per_second": 2 if tight else 50,
        "requests_per_minute": 20 if tight else 200,
        "capture_reference": dice.random() < 0.25,
        "strict_expiry": "strict_expiry" in on,
    }


def _config(dice: random.Random, on: frozenset[str]) -> dict[str, Any]:
    words: dict[str, str | None] = {"hold": "payment", "capture": "payment", "unfreeze": "unfreeze", "refund": "refund"}
    if "words_equal" in on:
        words["unfreeze"] = "payment"
    elif "words_missing" in on:
        words["capture"] = words["unfreeze"] = None
    elif dice.random() < 0.2:
        words["unfreeze"] = "close"
    others = bool(on & {"portal_capture", "portal_unfreeze", "portal_refund", "portal_before", "decide_wrong"})
    return {
        "order_types": words,
        "link_rows": dice.choice((False, ("capture",), ("unfreeze",))) if "unlinked_rows" in on else True,
        "link_notices": dice.choice((True, True, False)),
        "shown_numbers": dice.choice(({}, {}, {"capture": "hold", "unfreeze": "hold"}, {"capture": "none"})),
        "ids_override_window": dice.random() < 0.5,
        "newest_first": dice.random() < 0.5,
        "query_lag": timedelta(seconds=dice.choice((1, 6)) if "query_lag" in on else 0),
        "capture_number": dice.choice(("echo", "echo", "ignore", "refuse")),
        "sign_answers": dice.random() < 0.3 or "missigned" in on,
        "notify_url": "http://client/notify" if dice.random() < 0.75 else None,
        "notify_freeze": dice.random() < 0.2,
        "notify_delay": timedelta(seconds=dice.choice((0, 0, 2))),
        "sign_types": frozenset({"MD5"} if "md5" in on else {"SHA256"}),
        "redelivery": tuple(timedelta(seconds=each) for each in dice.choice(((2, 10, 60), (120, 600, 600, 3600)))),
        # a gateway that lets everything through shows what the client lets slip; where people move money or decide
        # wrongly behind the client's back, only the gateway's own rules can keep the sum within the hold
        "enforce": others or dice.random() < 0.5,
        "record": False,
    }


# ------------------------------------------------------------------------------------------------ what is done


def _steps(dice: random.Random, scenario: Scenario) -> list[Step]:
    moments = sorted(dice.uniform(0, scenario.length_s * 0.8) for _ in range(dice.choice((2, 3, 4))))
    steps: list[Step] = []
    keys: list[dict[str, Any]] = []
    for _ in range(dice.randint(3, 10)):
        steps.append(_money(dice, scenario, keys, moments))
    for _ in range(dice.randint(0, 2)):
        account = {"account": dice.randrange(scenario.accounts)}
        steps.append(Step(_near(dice, moments, 3.0), "reconcile", _process(dice, scenario), account))
    for kind in sorted(scenario.on & set(TROUBLES)):
        steps += _trouble(dice, scenario, kind, keys, moments)
    account = {"account": dice.randrange(scenario.accounts)}
    steps.append(Step(_near(dice, moments, 3.0), "look", _process(dice, scenario), account))
    steps.sort(key=lambda step: step.at)
    return steps


def _near(dice: random.Random, moments: list[float], spread_s: float) -> float:
    """Things happen together, so that they meet."""
    return dice.choice(moments) + dice.choice((0.0, 0.001, 0.02, 0.3, 1.0)) * dice.random() * spread_s


def _process(dice: random.Random, scenario: Scenario) -> int:
    return dice.randrange(scenario.processes)


def _money(dice: random.Random, scenario: Scenario, keys: list[dict[str, Any]], moments: list[float]) -> Step:
    at = _near(dice, moments, 1.0)
    if keys and dice.random() < 0.35:
        args = dict(dice.choice(keys))
        at = max(at, args["at"]) + dice.choice((0.0, 0.5, 4.0, 15.0)) * dice.random()
        return Step(at, "money", _process(dice, scenario), args)
    hold = dice.randrange(len(scenario.holds))
    size = scenario.holds[hold]
    operation = dice.choices(("capture", "unfreeze", "refund"), (6, 2, 3))[0]
    account = hold % scenario.accounts
    mine = [each for each in keys if each["hold"] % scenario.accounts == account]
    captures = [each["key"] for each in mine if each["operation"] == "capture"]
    if operation == "refund" and not captures:
        operation = "capture"
    # another account's callers use the same keys
    args = {"key": f"{operation[0]}{len(mine)}", "operation": operation, "hold": hold, "at": at}
    if operation == "refund":
        args |= {"of": dice.choice(captures), "amount": dice.choice((100, 200, 300, size // 2))}
        at += dice.choice((1.0, 5.0, 12.0))
    elif operation == "capture":
        args["amount"] = dice.choice((100, 300, 300, size // 2, size // 2, size // 2, size))
    else:
        args["amount"] = None
        at += dice.choice((0.0, 0.0, 2.0, 8.0))
    keys.append(args)
    return Step(at, "money", _process(dice, scenario), args)


def _trouble(
    dice: random.Random, scenario: Scenario, kind: str, keys: list[dict[str, Any]], moments: list[float]
) -> list[Step]:
    at, process = _near(dice, moments, 4.0), _process(dice, scenario)
    if kind in ("cancel", "timeout"):
        return [
            Step(_near(dice, moments, 1.0), "money", process, dice.choice(keys) | {kind: _interruption(dice, kind)})
            for _ in range(dice.randint(1, 3))
        ]
    if kind == "pause":  # where a request may just be on its way out
        begins = [dice.choice(keys)["at"] + dice.choice((0.02, 0.5, 1.0)) * dice.random() for _ in range(2)]
        later = [moment for moment in moments if moment > begins[0]] or [begins[0] + 12.0]  # when something happens
        pauses = (0.5, 6.0, 25.0, 40.0, dice.choice(later) - begins[0] + 0.5 * dice.random())
        return [Step(begin, "pause", process, {"for": dice.choice(pauses)}) for begin in begins]
    if kind in ("ledger_before", "ledger_after", "crowd"):
        return []
    if kind == "portal_before":
        _portal_before(dice, scenario, keys)
        return []
    if kind == "conflict":
        return [Step(at + 3.0, "conflict", process, dice.choice(keys))]
    what, args = _by_people(dice, scenario, kind)
    return [Step(at + (dice.choice((4.0, 15.0)) if what == "decide" else 0.0), what, process, args)]


def _portal_before(dice: random.Random, scenario: Scenario, keys: list[dict[str, Any]]) -> None:
    """On a hold that is not new, somebody captured the very amount that we shall capture, or unfreeze: all of it."""
    operation = dice.choice(("capture", "unfreeze"))
    wanted = [each for each in keys if each["operation"] == operation]
    if not wanted:
        return
    one, ago_s = dice.choice(wanted), dice.choice((90.0, 600.0, 1_800.0))
    hold = one["hold"]
    if "strict_expiry" not in scenario.on:
        scenario.ages[hold] = ago_s + 60.0
    scenario.before.append((hold, one["amount"] or scenario.holds[hold], min(ago_s, scenario.ages[hold] - 1.0)))


def _by_people(dice: random.Random, scenario: Scenario, kind: str) -> tuple[str, dict[str, Any]]:
    """What operators and merchants do, and to what."""
    hold = dice.randrange(len(scenario.holds))
    if kind in ("kill", "kill_at_step"):
        steps = dice.randint(1, 90) if kind == "kill_at_step" else 0
        return "kill", {"after": dice.choice((0.5, 3.0, 20.0)), "steps": steps}
    if kind.startswith("portal_"):
        return "portal", {"kind": kind[7:], "hold": hold, "share": dice.choice((0, 100, 300, 600))}
    if kind in ("decide_right", "decide_wrong"):
        return "decide", {"right": kind == "decide_right", "account": hold % scenario.accounts}
    if kind in ("old_notice", "rotation"):
        return kind, {"account": hold % scenario.accounts}
    return kind, {"hold": hold} if kind == "import" else {}


def _interruption(dice: random.Random, kind: str) -> float:
    return dice.randint(1, 60) if kind == "cancel" else dice.choice((0.01, 0.3, 1.0, 4.0))
