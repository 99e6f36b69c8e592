"""Celery's messages as files, each whole before it can be seen.

kombu makes a message's file and then fills it; a worker that comes between finds nothing in it, and ends.
"""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from kombu.transport import filesystem


def _put_whole(channel: Any, queue: str, payload: Any, **_: Any) -> None:
    message = Path(channel.data_folder_out) / f"{time.monotonic_ns()}_{uuid.uuid4()}.{queue}.msg"
    part = message.with_suffix(".part")
    part.write_text(json.dumps(payload), encoding="utf-8")
    part.rename(message)


def use_whole_messages() -> None:
    """In this process, from now on."""
    filesystem.Channel._put = _put_whole  # type: ignore[method-assign, assignment]
