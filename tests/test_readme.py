"""The README keeps its word: its code runs as it stands, and what it names exists."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import qfpay_preauth
from qfpay_preauth import errors

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def _run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "pasted.py"
    script.write_text(code, "utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_first_example_runs_as_pasted(tmp_path: Path) -> None:
    """The example at the top, pasted into a file, prints the books of its hold, twice if run twice."""
    for _ in range(2):
        run = _run(BLOCKS[0], tmp_path)
        assert run.returncode == 0, run.stderr
        assert "captured=20000" in run.stdout
        assert "unfrozen=30000" in run.stdout


def test_a_working_example_comes_early() -> None:
    """A newcomer sees a whole program by line 25."""
    lines = README.splitlines()
    assert next(i for i, line in enumerate(lines, 1) if line.startswith("asyncio.run(")) <= 25


@pytest.mark.parametrize("code", BLOCKS[1:], ids=range(1, len(BLOCKS)))
def test_every_snippet_compiles_and_imports(code: str, tmp_path: Path) -> None:
    """Every other Python block is a program without errors; functions in it are defined, not run."""
    run = _run(code, tmp_path)
    assert run.returncode == 0, run.stderr


def test_the_test_of_the_readme_passes(tmp_path: Path) -> None:
    """The example of a test with the simulator passes under pytest."""
    code = next(block for block in BLOCKS if "async def test_" in block)
    (tmp_path / "test_pasted.py").write_text(code, "utf-8")
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text("utf-8"), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", str(tmp_path)]
    run = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_every_error_is_in_the_table() -> None:
    """Each public error that can reach a caller has its row in "what to do with each error"."""
    section = README.partition("## What to do with each error")[2].partition("\n## ")[0]
    families = {"PreauthError", "LedgerError"}
    public = {name for name in qfpay_preauth.__all__ if name.endswith("Error")} - families
    assert {name for name in public if f"`{name}`" not in section} == set()
    assert all(issubclass(getattr(errors, name), errors.PreauthError) for name in public)
