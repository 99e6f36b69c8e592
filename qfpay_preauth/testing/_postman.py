"""Posts what the courier has due: the one place where the simulator is a client itself (and needs aiohttp)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from io import BytesIO

import aiohttp

from ._core import Core
from ._courier import Delivery, Letter, Round
from ._faults import Rule
from ._forge import Post, counts, posts


async def deliver(core: Core, clock: Callable[[], datetime]) -> Round:
    """Post what is due by now, one after the other."""
    limit = clock()
    core.advance(limit)
    url, due = core.config.notify_url, core.courier.next_due
    if url is None or due is None or due > limit:
        return Round()
    made: list[Delivery] = []
    timeout = aiohttp.ClientTimeout(total=core.config.notify_timeout_s)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while (taken := core.courier.take(limit, core.faults)) is not None:
            made += await _deliver_one(core, clock, session, url, *taken)
    sent = [each for each in made if each.body]
    return Round(posted=len(sent), acknowledged=sum(each.acknowledged for each in sent))


async def _deliver_one(  # noqa: PLR0917
    core: Core,
    clock: Callable[[], datetime],
    session: aiohttp.ClientSession,
    url: str,
    letter: Letter,
    rule: Rule | None,
) -> list[Delivery]:
    courier = core.courier
    made: list[Delivery] = []
    try:
        for post in posts(letter, rule, core.config.client_key) or [(b"", {})]:
            status, text = await _post(session, url, post) if post[0] else (0, b"")
            made.append(
                Delivery(
                    at=clock(),
                    syssn=letter.syssn,
                    attempt=letter.attempt,
                    body=post[0],
                    headers=post[1],
                    status=status,
                    text=text,
                    fault=rule.kind if rule else None,
                )
            )
    except BaseException:
        courier.put_back(letter)  # the sender was cancelled: it stays due
        raise
    finally:
        courier.deliveries += made
    heard = counts(rule) and any(each.acknowledged for each in made)
    courier.answered(letter, heard, clock(), core.config.redelivery)
    return made


async def _post(session: aiohttp.ClientSession, url: str, post: Post) -> tuple[int, bytes]:
    """Status and body of the answer; status 0 if none came."""
    body, headers = post
    try:
        # a file, because aiohttp warns of large bytes
        async with session.post(url, data=BytesIO(body), headers=headers, allow_redirects=False) as answer:
            return answer.status, await answer.read()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return 0, b""
