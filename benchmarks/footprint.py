"""f) What it costs to import and to install, beside the peers. Each import runs in a fresh interpreter, in turn."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from attrs import frozen

from benchmarks._measure import Figure, Plan, spread_of

TITLE = "To import and to install, beside the peers"
ROOT = Path(__file__).resolve().parents[1]
OURS = "qfpay_preauth"
PEERS = ("aiohttp", "stripe", "httpx")
STATEMENTS = {
    "bare": "pass",
    OURS: f"import {OURS}",
    f"{OURS}, first client": "import asyncio, qfpay_preauth as q, qfpay_preauth._transport; "
    "q.PreauthClient(q.Credentials('A', 'K'), ledger='memory://')",
    **{peer: f"import {peer}" for peer in PEERS},
}
_NAME = re.compile(r"[A-Za-z0-9._-]+")


@frozen
class Installed:
    """A package with all that it needs: how many, and their megabytes (10⁶ bytes, without compiled caches)."""

    packages: int
    megabytes: float


def run(plan: Plan) -> list[Figure]:
    """Imports, whether aiohttp comes with a bare one, and what is installed."""
    figures = _import_figures(_imports(plan.rounds, peers=plan.peers))
    brought = _prints(f"import sys, {OURS}; print(sum(name.partition('.')[0] == 'aiohttp' for name in sys.modules))")
    what = f"modules of aiohttp that `import {OURS}` brings"
    figures.append(Figure("footprint", what, spread_of([float(brought)]), 0.0))
    return figures + _installed_figures(("aiohttp", *(PEERS[1:] if plan.peers else ())))


# ------------------------------------------------------------------------------------------------ imports


def _imports(rounds: int, *, peers: bool) -> dict[str, list[float]]:
    """CPU seconds of each import, less those of an interpreter that imports nothing; round by round."""
    names = [name for name in STATEMENTS if _importable(name) and (peers or name not in PEERS[1:])]
    for name in names:  # compiled, and read from the disk once
        _cpu(STATEMENTS[name])
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        order = names if number % 2 else names[::-1]
        costs = {name: _cpu(STATEMENTS[name]) for name in order}
        for name in names:
            found[name].append(costs[name] - costs["bare"])
    return found


def _importable(name: str) -> bool:
    return name not in PEERS or _closure(name) is not None


def _cpu(statement: str) -> float:
    process = subprocess.Popen([sys.executable, "-c", statement], cwd=ROOT, env=_environment())
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, statement
    return usage.ru_utime + usage.ru_stime


def _prints(statement: str) -> str:
    command = [sys.executable, "-c", statement]
    return subprocess.run(command, cwd=ROOT, env=_environment(), check=True, capture_output=True, text=True).stdout


def _environment() -> dict[str, str]:
    """Ours, less what would keep the imports from being compiled once for all."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _import_figures(costs: dict[str, list[float]]) -> list[Figure]:
    figures = []
    for ours in (OURS, f"{OURS}, first client"):
        for peer in (peer for peer in PEERS if peer in costs):
            spread = spread_of([mine / other for mine, other in zip(costs[ours], costs[peer], strict=True)])
            statement = "import" if ours == OURS else "import, and all that a client needs,"
            figures.append(Figure("footprint", f"{statement} ÷ `import {peer}`, CPU", spread))
    return figures


# ------------------------------------------------------------------------------------------------ what is installed


def _installed_figures(peers: Iterable[str]) -> list[Figure]:
    ours = _measured(_our_closure(), ROOT / OURS)
    figures = []
    for peer in peers:
        closure = _closure(peer)
        if closure is None:
            continue
        theirs = _measured(closure)
        for what, mine, other in (
            ("packages", ours.packages, theirs.packages),
            ("megabytes", ours.megabytes, theirs.megabytes),
        ):
            note = f"{mine:.3g} ÷ {other:.3g}"
            spread = spread_of([mine / other])
            figures.append(Figure("footprint", f"installed {what} ÷ {peer}'s", spread, note=note))
    return figures


def _our_closure() -> set[str]:
    """What our own pyproject asks for, with all that this needs; ourselves not counted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names: set[str] = set()
    for needed in project["dependencies"]:
        names |= _closure(_name(needed)) or set()
    return names


def _closure(name: str, known: frozenset[str] = frozenset()) -> set[str] | None:
    """A package with all that it needs here; None where it is not installed. What only an extra needs is left out."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    names = {_canonical(name)}
    for needed in found.requires or ():
        other = _canonical(_name(needed))
        if "extra ==" not in needed and other not in known | names:
            names |= _closure(other, known | names) or set()
    return names


def _name(requirement: str) -> str:
    found = _NAME.match(requirement)
    assert found is not None, requirement
    return found.group()


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _measured(names: Iterable[str], own: Path | None = None) -> Installed:
    sizes = [_size(path for path in map(Path, _files(name))) for name in names]
    if own is not None:
        sizes.append(_size(own.rglob("*")))
    return Installed(len(sizes), sum(sizes) / 1e6)


def _files(name: str) -> list[str]:
    found = distribution(name)
    return [str(found.locate_file(each)) for each in found.files or ()]


def _size(paths: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file() and "__pycache__" not in path.parts)
