"""Runs the command line as a user does: another process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

COMMAND = (sys.executable, "-W", "always::ResourceWarning", "-m", "qfpay_preauth")


def environment(**more: str) -> dict[str, str]:
    """What the process sees: where the package is, and nothing of the developer's own settings."""
    return {"PYTHONPATH": os.pathsep.join(sys.path), "PATH": os.environ.get("PATH", ""), "PYTHONUTF8": "1", **more}


def run(
    *arguments: str, env: Mapping[str, str] | None = None, command: tuple[str, ...] = COMMAND
) -> subprocess.CompletedProcess[str]:
    """Run to the end, without a terminal."""
    return subprocess.run(
        [*command, *arguments],
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that an error is; no traceback, and nothing on the other stream."""
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr
