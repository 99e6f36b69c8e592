"""Other people who pay at the same merchant: rows that are not ours, before the run and between any two pages of it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from qfpay_preauth.testing._portal import act

if TYPE_CHECKING:
    from tests.simulation.site import Site

_MORE_MAX = 400
_AMOUNTS = (1, 100, 300, 500)  # ours among them


class Crowd:
    """The merchant's other customers."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._more = 0
        self._on = "crowd" in site.world.scenario.on

    def before(self) -> None:
        """What was paid within the last minutes; nobody is notified of it any more."""
        world, config = self._site.world, self._site.core.config
        if not self._on:
            return
        url, config.notify_url = config.notify_url, None
        many = world.scenario.page_size + world.dice.randint(-3, 20)  # a full page and a few, or almost one
        for ago_s in sorted((world.dice.uniform(0, 600) for _ in range(many)), reverse=True):
            self._pay(ago_s)
        config.notify_url = url
        world.hits["crowd"] += 1

    def between(self) -> None:
        """A page was read, and somebody pays before the next one is."""
        world, config = self._site.world, self._site.core.config
        if self._on and self._more < _MORE_MAX and world.dice.random() < 0.8:
            self._more += 1
            url = config.notify_url
            if world.scenario.settings["requests_per_minute"] < 100:
                config.notify_url = None  # one enquiry for each would leave a small budget no room for anything else
            self._pay(ago_s=0.0)
            config.notify_url = url

    def _pay(self, ago_s: float) -> None:
        world, books = self._site.world, self._site.core.books
        dice, now = world.dice, world.gateway_now() - timedelta(seconds=ago_s)
        hold = books.hold(dice.choice(_AMOUNTS), "HKD", now)
        if dice.random() < 0.2:
            act(books, "capture", hold.syssn, None, now)
