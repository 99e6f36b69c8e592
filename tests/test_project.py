"""The project's shape: its face, its floors, its files. Only the source is looked at, and fresh processes."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import qfpay_preauth

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "qfpay_preauth"
SOURCES = sorted(path for folder in ("qfpay_preauth", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
EXTRAS = {"cyclopts", "rich", "pytest", "pytest_asyncio", "asyncpg", "opentelemetry", "prometheus_client", "structlog"}
EXTRA_ROOMS = r"/_cli|/_demo|/testing/|/ledger/_?postgres|/_eyes_|/instrumentation"
PURE = [
    "_money",
    "_checks",
    "_windows",
    "_events",
    "_batch_rows",
    "_figures",
    "_codes",
    "_signing",
    "_wire",
    "_json",
    "_outcomes",
    "_evidence",
    "_absence",
    "_findings",
    "_noticed",
    "ledger/_rules",
]
FACE = PACKAGE / "__init__.py"
pytestmark = pytest.mark.xdist_group("project")  # each file is read once


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


# ------------------------------------------------------------------------------------------------ the face


def _type_checking_imports() -> dict[str, str]:
    block = next(node for node in _tree(FACE).body if isinstance(node, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    found = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        found.update({alias.name: str(node.module) for alias in node.names if alias.asname is None})
    return found


def test_the_face_is_the_same_wherever_it_is_written() -> None:
    """`__all__`, the imports for type checkers, the rooms and `dir()` name the same things in the same rooms."""
    rooms = {name: f"qfpay_preauth.{room}" for name, room in qfpay_preauth._ROOM_OF.items()}
    assert rooms == _type_checking_imports()
    assert sorted(rooms) == qfpay_preauth.__all__
    assert dir(qfpay_preauth) == qfpay_preauth.__all__


def test_the_face_is_sorted_and_without_repetition() -> None:
    """A name has one place."""
    assert qfpay_preauth.__all__ == sorted(set(qfpay_preauth.__all__))
    assert not [name for name in qfpay_preauth.__all__ if name.startswith("_")]


@pytest.mark.parametrize("name", qfpay_preauth.__all__)
def test_every_name_of_the_face_leads_to_its_thing(name: str) -> None:
    """Each public name can be had, comes from its room, and is explained where it is defined."""
    value = getattr(qfpay_preauth, name)
    assert value.__name__ == name
    assert value.__doc__
    assert value.__module__.startswith(f"qfpay_preauth.{qfpay_preauth._ROOM_OF[name]}")


def test_other_names_are_no_attributes() -> None:
    """A wrong name is an AttributeError like any module's, so that `hasattr` and typos work as usual."""
    assert not hasattr(qfpay_preauth, "Preauth")
    with pytest.raises(AttributeError, match="module 'qfpay_preauth' has no attribute 'nothing'"):
        qfpay_preauth.nothing  # noqa: B018 - the point of the test
    with pytest.raises(ImportError):
        exec("from qfpay_preauth import Nothing")


# ------------------------------------------------------------------------------------------------ imports


def _modules() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


_IMPORT_EACH = """
import importlib, os, sys, traceback
for name in {others!r}:  # once for all: only the package's own modules are on trial
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        pass
for module in {modules!r}:
    if os.fork():
        _, status = os.wait()
        print(module, os.waitstatus_to_exitcode(status), flush=True)
        continue
    assert not any(name.partition(".")[0] == "qfpay_preauth" for name in sys.modules)
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        os._exit(2 if (error.name or "").partition(".")[0] in {absent!r} else 1)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""


def test_every_module_imports_alone() -> None:
    """Each module of the package, first in a process of its own with warnings as errors: no order is needed."""
    modules, others = list(_modules()), sorted({*EXTRAS, "aiohttp", "attrs", "tenacity", "asyncio", "sqlite3"})
    absent = {extra for extra in EXTRAS if importlib.util.find_spec(extra) is None}
    run = _python(_IMPORT_EACH.format(modules=modules, others=others, absent=absent))
    ends = dict(line.split() for line in run.stdout.splitlines())
    assert len(modules) > 30
    assert (run.returncode, list(ends)) == (0, modules), run.stderr
    assert [module for module, end in ends.items() if end not in ("0", "2" if absent else "0")] == [], run.stderr


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import qfpay_preauth", "aiohttp attr attrs tenacity sqlite3 asyncio pytest cyclopts rich"),
        ("import qfpay_preauth; dir(qfpay_preauth)", "aiohttp attr attrs tenacity"),
        ("from qfpay_preauth import PreauthClient", "aiohttp pytest cyclopts rich qfpay_preauth.testing"),
        ("from qfpay_preauth import minor_units, PreauthError", "aiohttp attr tenacity"),
        ("from qfpay_preauth import *", "aiohttp pytest cyclopts rich qfpay_preauth.testing"),
    ],
)
def test_imports_are_lazy(code: str, absent: str) -> None:
    """A bare import brings no dependency, and the client's class brings no aiohttp until a client is made."""
    run = _python(f"{code}\nimport sys\nprint(*(name for name in {absent.split()!r} if name in sys.modules))")
    assert (run.returncode, run.stdout.split(), run.stderr) == (0, [], "")


# ------------------------------------------------------------------------------------------------ the rule modules


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            room = f"qfpay_preauth.{node.module}" if node.level else node.module
            yield from (f"{room}.{alias.name}" for alias in node.names)


_WORLD = (
    "time random secrets uuid os sys io socket ssl asyncio threading subprocess pathlib tempfile logging sqlite3 shutil"
)
_DOERS = {"open", "print", "input", "exec", "eval", "__import__", "now", "utcnow", "today", "monotonic", "urandom"}
_AWAITS = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)


@pytest.mark.parametrize("module", PURE)
def test_rule_modules_do_nothing_but_compute(module: str) -> None:
    """No I/O, clock, randomness or `await` where the rules are: values in, values out."""
    tree = _tree(PACKAGE / f"{module}.py")
    worldly = {name for name in _imported(tree) if name.partition(".")[0] in {*_WORLD.split(), "aiohttp", "tenacity"}}
    clocks = {name for name in _imported(tree) if name.startswith("qfpay_preauth._clock.") and "GATEWAY_TZ" not in name}
    called = {
        node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    }
    assert (worldly, clocks, called & _DOERS) == (set(), set(), set())
    assert not [node for node in ast.walk(tree) if isinstance(node, _AWAITS)]


# ------------------------------------------------------------------------------------------------ files and functions


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_files_and_functions_stay_small(path: Path) -> None:
    """No file over 500 lines, no function over 70."""
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    functions = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {each.name: n for each in functions if (n := (each.end_lineno or 0) - each.lineno + 1) > 70} == {}


def _tests(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    functions = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [function for function in functions if function.name.startswith("test_")]


def test_every_test_names_its_behaviour() -> None:
    """Each test has a docstring of its own, the conformance kit's too."""
    tests = [(path, function) for path in SOURCES for function in _tests(path)]
    assert len(tests) > 1_000
    assert [(path, function.name) for path, function in tests if not ast.get_docstring(function)] == []


@pytest.mark.parametrize("path", [path for path in SOURCES if PACKAGE in path.parents], ids=_name)
def test_every_module_says_what_it_is(path: Path) -> None:
    """Each module of the package opens with a docstring and postpones its annotations."""
    tree = _tree(path)
    assert ast.get_docstring(tree)
    assert "__future__.annotations" in set(_imported(tree)) or not any(
        isinstance(n, ast.FunctionDef) for n in tree.body
    )


# ------------------------------------------------------------------------------------------------ what is declared


def _project() -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


def test_the_version_is_the_newest_of_the_changelog() -> None:
    """The version in pyproject.toml is the first released heading of the changelog."""
    changelog = ROOT / "CHANGELOG.md"
    if not changelog.exists():
        pytest.skip("there is no CHANGELOG.md in this tree")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", changelog.read_text(encoding="utf-8"), re.M)
    assert released[0] == _project()["version"]
    assert len(set(released)) == len(released)


def test_the_core_depends_on_four_packages_only() -> None:
    """aiohttp, attrs and tenacity; everything else is an extra."""
    dependencies = _project()["dependencies"]
    assert isinstance(dependencies, list)
    names = {re.split(r"[^\w-]", each, maxsplit=1)[0] for each in dependencies}
    assert names == {"aiohttp", "attrs", "tenacity"}


def test_the_core_imports_what_it_declares() -> None:
    """No module but the command line, the pytest plugin and the contract kit needs more than the core's packages."""
    allowed = {*sys.stdlib_module_names, "qfpay_preauth", "aiohttp", "attr", "attrs", "tenacity"}
    allowed |= {"yarl", "multidict"}  # aiohttp's own, and always there with it
    foreign = {
        _name(path): strange
        for path in sorted(PACKAGE.rglob("*.py"))
        if (strange := {name.partition(".")[0] for name in _imported(_tree(path))} - allowed)
    }
    needs_extras = {name for name in foreign if re.search(EXTRA_ROOMS, name)}
    assert set(foreign) == needs_extras
    assert set().union(*foreign.values()) <= EXTRAS


def test_the_package_says_that_it_is_typed() -> None:
    """py.typed is there, and empty: all of the package is typed."""
    assert (PACKAGE / "py.typed").read_bytes() == b""
