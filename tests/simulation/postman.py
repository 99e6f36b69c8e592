"""Delivers the gateway's notifications to whatever process is there, as the endpoint's ready adapters would."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from qfpay_preauth import notifications
from qfpay_preauth.testing._courier import Letter
from qfpay_preauth.testing._faults import Rule
from qfpay_preauth.testing._forge import Post, counts, posts
from tests.simulation.auditor import FORGED

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.site import Site

BODY_BYTES_MAX = 65_536
_TIMEOUT_S = 5.0


class _Round:
    """One delivery of one letter: its posts, and what came back."""

    def __init__(self, letter: Letter, rule: Rule | None, made: list[Post]) -> None:
        self.letter, self.rule, self.left, self.heard = letter, rule, len(made), False


class Postman:
    """Takes from the courier what is due, and posts it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._world = site.world
        self.genuine: list[Post] = []

    def wake(self) -> None:
        """Look again when the next letter is due."""
        due = self._site.core.courier.next_due
        if due is not None:
            wait_s = max(0.0, (due - self._world.gateway_now()).total_seconds())
            self._world.outside(wait_s + 1e-4, self._deliver)

    def _deliver(self) -> None:
        world = self._world
        courier = self._site.core.courier
        while (taken := courier.take(world.gateway_now(), self._site.core.faults)) is not None:
            letter, rule = taken
            made = posts(letter, rule, self._site.core.config.client_key)
            if not made:
                self._site.note(f"postman: the notice of {letter.syssn} is lost")
                courier.answered(letter, False, world.gateway_now(), self._site.core.config.redelivery)
                continue
            self.genuine.append((letter.body, letter.headers))
            delivery = _Round(letter, rule, made)
            for post in made:
                world.outside(world.latency(), self.post, post, delivery)
        self.wake()

    def post(self, post: Post, delivery: _Round | None = None) -> None:
        """One post to one of the processes; nobody there, no answer."""
        world = self._world
        there = [process for process in world.processes if process.usable]
        if not there:
            world.outside(_TIMEOUT_S, self._answered, post, delivery, 0)
            return
        process = world.dice.choice(there)
        genuine = self._genuine(post, process)
        answers: list[int] = []
        process.spawn(self._hand_in(process, post, answers, genuine), "" if genuine else FORGED)
        world.outside(_TIMEOUT_S, self._timed_out, post, delivery, answers)

    async def _hand_in(self, process: Process, post: Post, answers: list[int], genuine: bool) -> None:
        body, headers = post
        status, _ = await notifications._answer(
            process.clients[self._site.number], headers.get("Content-Type", ""), headers, body
        )
        answers.append(status)
        self._site.note(f"{process.name} answers a {'genuine' if genuine else 'forged'} notice with {status}")
        if status == 200 and not genuine:
            self._site.auditor.fail("I16", "a forged notification was accepted")
        if status == 200 and hashlib.sha256(body).hexdigest() not in self._site.auditor.notices:
            self._site.auditor.fail("I16", "a notification was acknowledged before it was stored")

    def _timed_out(self, post: Post, delivery: _Round | None, answers: list[int]) -> None:
        self._answered(post, delivery, answers[0] if answers else 0)

    def _answered(self, post: Post, delivery: _Round | None, status: int) -> None:
        if delivery is None:
            return
        world = self._world
        delivery.left -= 1
        delivery.heard = delivery.heard or status == 200
        if not delivery.left:
            heard = delivery.heard and counts(delivery.rule)
            redelivery = self._site.core.config.redelivery
            self._site.core.courier.answered(delivery.letter, heard, world.gateway_now(), redelivery)
            self.wake()

    def _genuine(self, post: Post, process: Process) -> bool:
        """Whether a process has to accept these bytes: short enough, and signed with a key that it knows."""
        body, headers = post
        given = process.clients[self._site.number]._credentials
        keys = [key for key in (given.client_key, given.previous_client_key) if key]
        right = {hashlib.md5(body + key.encode()).hexdigest().upper() for key in keys}
        return len(body) <= BODY_BYTES_MAX and headers.get("X-QF-SIGN") in right
