"""The API reference: its command makes it, and every public name is in it, with its words."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import qfpay_preauth

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / ".ci" / "reference.py"
MODULES = (
    "qfpay_preauth",
    *(f"qfpay_preauth.{name}" for name in ["errors", "instrumentation", "ledger", "notifications"]),
)

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="a source archive has no .ci folder")


def pages(folder: Path) -> dict[str, str]:
    """Module → its page, made by the documented command, with warnings as errors."""
    command = [sys.executable, "-W", "error", str(SCRIPT), str(folder)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return {
        ".".join(page.relative_to(folder).with_suffix("").parts): page.read_text("utf-8")
        for page in folder.rglob("*.html")
    }


def public(module: ModuleType) -> Iterator[str]:
    """The public names of a module: what its `__all__` says, or what it defines."""
    for name in getattr(module, "__all__", vars(module)):
        value = getattr(module, name)
        ours = getattr(value, "__module__", "") == module.__name__ or hasattr(module, "__all__")
        if not name.startswith("_") and (inspect.isclass(value) or inspect.isroutine(value)) and ours:
            yield name


def members(kind: type) -> Iterator[str]:
    """The public methods and properties of a class that this package defines, from private bases too."""
    for base in kind.__mro__:
        for name, value in vars(base).items() if base.__module__.startswith("qfpay_preauth") else ():
            called = inspect.isroutine(value) or isinstance(value, property | staticmethod | classmethod)
            if called and not name.startswith("_"):
                yield name


def check_page(name: str, page: str) -> None:
    """Each name of a public module, and each method of its classes, has its place on the page and a docstring."""
    module = importlib.import_module(name)
    ids = set(re.findall(r'id="([\w.]+)"', page))
    found = list(public(module))
    assert len(found) >= 2
    for each in found:
        value = getattr(module, each)
        assert each in ids, each
        assert inspect.getdoc(value), each
        for member in members(value) if inspect.isclass(value) else ():
            assert f"{each}.{member}" in ids, f"{each}.{member}"
            assert inspect.getdoc(getattr(value, member)), f"{each}.{member}"


def test_the_reference(tmp_path: Path) -> None:
    """The documented command makes pages with every public name and its words, the client's whole face in one place,
    and no private name."""
    made = pages(tmp_path)
    for name in MODULES:
        check_page(name, made[name])
    shown = set(re.findall(r'id="PreauthClient\.(\w+)"', made["qfpay_preauth"]))
    assert {"capture", "balance", "in_doubt", "resolve", "run_reconciler", "from_env", "aclose"} <= shown
    ids = {each for page in made.values() for each in re.findall(r'id="([\w.]+)"', page)}
    assert [each for each in ids if re.search(r"(^|\.)_(?!_init__)", each)] == []


def test_the_page_is_the_modules_that_are_public() -> None:
    """The reference has a page for each module whose name is public, and no other."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    package = Path(qfpay_preauth.__file__).parent
    named = {path.stem for path in package.glob("[!_]*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    assert set(script.MODULES) == {"qfpay_preauth", *(f"qfpay_preauth.{name}" for name in named)}
