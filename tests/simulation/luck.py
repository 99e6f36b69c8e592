"""What goes wrong: kinds of trouble, as they were switched on by the seed, turned into rules of the simulator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp

from qfpay_preauth.testing._faults import Rule
from tests.simulation.kinds import NOTICE_KINDS, WIRE_KINDS

if TYPE_CHECKING:
    from tests.simulation.site import Site
    from tests.simulation.world import World

_CONNECTING = frozenset({"not_connected", "cut_before_body"})
_WRITES_ONLY = frozenset(
    {"swapped", "foreign_refusal", "pending", "pending_refused", "hidden", "declined", "refused_now"}
)
_ROWS = ({"origssn": None}, {"txamt": None}, {"sysdtm": None}, {"order_type": None}, {"txcurrcd": None})
_ANSWERS = (
    {"orig_syssn": "20260101180500020099999999"},
    {"txamt": "1"},
    {"txcurrcd": "USD"},
    {"orig_syssn": None},
    {"txamt": None},
    {"syssn": ""},
    {"syssn": None},
)


def fault(site: Site, operation: str) -> Rule | None:
    """The rule that strikes a request, drawn from the kinds that are on."""
    world = site.world
    write = operation in ("capture", "unfreeze", "refund")
    kinds = [
        kind
        for kind in WIRE_KINDS
        if kind in world.scenario.on
        and kind not in _CONNECTING
        and (kind not in _WRITES_ONLY or write)
        and (kind != "shifted" or not write)
    ]
    if not kinds:
        return None
    kind = world.dice.choice(kinds)
    if write and site.core.waiting_swap is not None and "swapped" in world.scenario.on:
        kind = "swapped"  # somebody waits to change places
    if kind != "swapped":  # counted when two answers really changed places
        world.hits[kind] += 1
    return _rule(world, kind, write)


def _rule(world: World, kind: str, write: bool) -> Rule:
    dice, late_s = world.dice, world.scenario.late_s
    how: dict[str, Any] = {}
    if kind == "rate_limited":
        how = {"retry_after": dice.choice((None, "1", "30"))}
    elif kind.startswith("status_"):
        how = {"status": dice.choice((404, 500, 502, 503, 504))}
    elif kind.startswith("unlisted_"):
        how = {"code": dice.choice(("1205", "1297", "9999", "1251")), "executed": kind == "unlisted_after"}
        kind = "respcd"
    elif kind in ("refused_now", "set_up", "declined"):
        codes = {"refused_now": ("1265", "1269"), "set_up": ("1108", "1241"), "declined": ("1201", "1104", "1266")}
        how, kind = {"code": dice.choice(codes[kind])}, "respcd"
    elif kind.startswith("pending"):
        how = {"then": "0000" if kind == "pending" else "1201", "seconds": dice.random() * late_s}
        kind = "pending"
    elif kind == "huge":
        how = {"size": 300_000}
    elif kind == "slow":
        how = {"pieces": 3, "seconds": dice.choice((0.1, 2.0))}
    elif kind == "altered":
        how = {"changes": dice.choice(_ANSWERS)} if write else {"changes": dice.choice(_ROWS), "rows": True}
    elif kind == "foreign_refusal":
        other = dice.choice(({"orig_syssn": "20260101180500020099999999"}, {"txamt": "7"}))
        how, kind = {"changes": {"respcd": dice.choice(("1201", "1266", "1269")), **other}}, "altered"
    elif kind in ("late", "late_hang"):
        how = {"seconds": dice.random() * late_s, "status": dice.choice((0, 504))}
    elif kind == "delay":
        how = {"seconds": dice.choice((0.5, 3.0, 7.0))}
    elif kind == "shifted":
        how = {"count": 1}
    return Rule(kind=kind, **how)


def notice_fault(world: World) -> Rule | None:
    """The rule that strikes the delivery of a notification."""
    kinds = [kind for kind in NOTICE_KINDS if kind in world.scenario.on]
    if not kinds:
        return None
    kind = world.dice.choice(kinds)
    world.hits[kind] += 1
    how: dict[str, Any] = {}
    if kind == "notice_repeated":
        how = {"count": 2}
    elif kind == "notice_reordered":
        how = {"seconds": world.dice.choice((0.0, 3.0, 20.0))}
    elif kind == "notice_oversize":
        how = {"size": 70_000}
    return Rule(kind=kind, **how)


async def connect(world: World) -> None:
    """Get a connection (or wait for one of the pool), or fail before any byte of a body left."""
    await asyncio.sleep(world.latency())
    kinds = [] if world.calm else sorted(_CONNECTING & world.scenario.on)
    if kinds and world.dice.random() < world.scenario.fault_rate / 2:
        kind = world.dice.choice(kinds)
        world.hits[kind] += 1
        if kind == "not_connected":
            raise aiohttp.ClientConnectionError("Cannot connect to host (simulated)")
        await asyncio.sleep(world.latency())
        raise ConnectionResetError("Cannot write to closing transport (simulated)")


_SAFE = frozenset({"register", "books", "report", "span", "bookmark", "expiring"})


def ledger(world: World, verb: str) -> tuple[float, float, str]:
    """Seconds before and after the commit of a verb, and how it fails ("" for not at all)."""
    dice = world.dice
    if world.calm:
        return 0.0, 0.0, ""
    draw = dice.random()
    before = dice.random() * 0.02 if draw < 0.3 else 0.0
    after = dice.random() * 0.02 if 0.2 < draw < 0.4 else 0.0
    kinds = world.ledger_kinds
    if kinds and verb not in _SAFE and dice.random() < world.scenario.ledger_rate:
        kind = dice.choice(kinds)
        world.hits[kind] += 1
        return before, after, kind
    return before, after, ""
