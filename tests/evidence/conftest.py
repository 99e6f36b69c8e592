"""Child processes that never outlive their test."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
Spawn = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def spawn() -> AsyncIterator[Spawn]:
    """Starts `tests.evidence.child`; those that still run at the end of the test are killed."""
    children: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "tests.evidence.child", *arguments]
        pipe = asyncio.subprocess.PIPE
        children.append(await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe))
        return children[-1]

    yield start
    for process in children:
        if process.returncode is None:
            process.kill()
            await process.communicate()
