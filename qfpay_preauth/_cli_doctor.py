"""`doctor`: one line for each thing that has to be right, with what to do where it is not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from urllib.request import getproxies

from attrs import evolve

from qfpay_preauth import _cli_checks as checks
from qfpay_preauth._cli_checks import Check, Level
from qfpay_preauth._cli_ledger_checks import ledger
from qfpay_preauth._cli_screen import EXIT_NO, EXIT_OK, Screen, emit_json, shown
from qfpay_preauth._cli_session import DEFAULTS, Options, account_of
from qfpay_preauth._profile import Profile, load_profile, open_clients
from qfpay_preauth._settings import gateway_url
from qfpay_preauth.errors import ConfigurationError, LedgerError

_STYLE = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


def doctor(*, options: Options = DEFAULTS) -> int:
    """Check the set-up: credentials (by a harmless enquiry), clock, TLS, ledger, settings, versions.

    Each check is a line: ok, warn or FAIL, with what to do next. Exit code 1 if any fails.

    Example: `qfpay-preauth doctor`
    """
    return asyncio.run(_examine(options))


async def _examine(options: Options) -> int:
    screen, worst = Screen(highlight=False), EXIT_OK
    async for check in _all(options):
        _tell(screen, options, check)
        worst = EXIT_NO if check.level is Level.FAIL else worst
    return worst


def _tell(screen: Screen, options: Options, check: Check) -> None:
    if options.json:
        emit_json(check)
        return
    word = check.level.value.upper() if check.level is Level.FAIL else check.level.value
    screen.print(f"[{_STYLE[check.level]}]{word:<5}[/]", end="")
    screen.print(shown(f"{check.check}: {check.says}"), markup=False, soft_wrap=True)
    if check.advice:
        screen.print(shown(f"     to do: {check.advice}"), markup=False, soft_wrap=True)


async def _all(options: Options) -> AsyncIterator[Check]:
    yield checks.versions()
    try:
        profile = load_profile(options.profile, os.environ)
    except ConfigurationError as error:
        yield checks.of_error("profile", error)
        return
    if options.account is not None:
        name = account_of(profile, options)
        profile = evolve(profile, accounts={name: profile.accounts[name]}, default_account=name)
    yield Check("profile", Level.OK, f"{profile.name}: {profile.environment}, accounts {', '.join(profile.accounts)}")
    if options.profile is None:
        for check in checks.variables(os.environ):
            yield check
    for check in checks.settings(profile):
        yield check
    for check in await ledger(profile):
        yield check
    async for check in _gateway(profile):
        yield check


async def _gateway(profile: Profile) -> AsyncIterator[Check]:
    url = gateway_url(profile.environment, profile.base_url)
    for check in await checks.gateway(url, proxied=profile.settings.trust_env and bool(getproxies())):
        yield check
    try:
        async for check in _credentials(profile.for_enquiries()):
            yield check
    except (LedgerError, ConfigurationError):
        # the ledger's own check has said it; the credentials can be checked all the same
        async for check in _credentials(evolve(profile, ledger="memory://")):
            yield check


async def _credentials(profile: Profile) -> AsyncIterator[Check]:
    async with open_clients(profile) as clients:
        for name, client in clients.items():
            yield await checks.credentials(name, client)
