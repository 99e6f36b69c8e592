"""A real Celery worker for the tests: the recipe's application on a broker that is a folder.

`python -m tests.recipes.celery_child FOLDER`; the environment says the rest.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.recipes.celery_app import app

QUIET = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=warning"]


def on_a_folder(folder: Path) -> None:
    """Messages and results as files: what is tested is the forking, not the broker."""
    for name in ("messages", "control", "results"):
        (folder / name).mkdir(exist_ok=True)
    messages = str(folder / "messages")
    app.conf.update(
        broker_url="filesystem://",
        broker_transport_options={
            "data_folder_in": messages,
            "data_folder_out": messages,
            "control_folder": str(folder / "control"),
            "polling_interval": 0.05,
        },
        result_backend=f"file://{folder / 'results'}",
    )


if __name__ == "__main__":
    on_a_folder(Path(sys.argv[1]))
    app.worker_main(["worker", "--pool=prefork", "--concurrency=2", *QUIET])
