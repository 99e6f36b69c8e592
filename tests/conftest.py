"""Fixtures that every test may use. The simulator's own fixture, `qfpay_gateway`, comes as a pytest plugin."""

from __future__ import annotations

import gc
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.nursery import Nursery, Spawn, spawning

pytest_plugins: list[str] = []


def pytest_configure(config: pytest.Config) -> None:
    """Load the simulator's plugin from the tree where the package is not installed; let Ctrl-C reach the commands."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # a shell's background job ignores it, and the processes that the tests start and interrupt would as well
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not config.pluginmanager.hasplugin("qfpay_preauth"):
        from qfpay_preauth.testing import pytest_plugin

        config.pluginmanager.register(pytest_plugin, "qfpay_preauth")


def pytest_collection_finish() -> None:
    """What was collected lives to the end: without this the garbage collector walks through it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Where the workers of all tests come from that this process runs."""
    with Nursery() as nursery:
        yield nursery


@pytest.fixture
async def spawn(nursery: Nursery) -> AsyncIterator[Spawn]:
    """Starts workers; those that still run at the end of the test are killed."""
    async with spawning(nursery) as start:
        yield start
