"""The command line as a whole: which commands there are, and what their errors become.

Only `__main__` imports this module, because cyclopts and rich come with the extra `[cli]`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Group

from qfpay_preauth import _cli_demo, _cli_doctor, _cli_doubts, _cli_holds, _cli_ledger, _cli_money, _cli_run, _cli_sign
from qfpay_preauth._cli_checks import own_version
from qfpay_preauth._cli_errors import error_object, exit_code_of, in_words
from qfpay_preauth._cli_screen import EXIT_OK, FailedError, UsageError, emit_json_aside, fail, hush_stdout
from qfpay_preauth.errors import PreauthError

app = App(
    name="qfpay-preauth",
    version=own_version,
    help=(
        "Capture, unfreeze and refund QFPay pre-authorisations, never taking the money twice.\n\n"
        "Example: `qfpay-preauth demo`\n\n"
        "Exit codes:\n\n"
        "- 0: done\n"
        "- 1: failed, no money moved (`verify`, `demo`, `doctor`: it does not match, agree, work)\n"
        "- 2: wrong usage or configuration, nothing was sent\n"
        "- 3: refused or declined, or the books differ\n"
        "- 4: the outcome is unknown, or doubts are left\n"
        "- 130: interrupted; stderr says what is known\n"
    ),
    help_format="markdown",
)

_GROUPS = {
    "Move money": (_cli_money.capture, _cli_money.unfreeze, _cli_money.refund, _cli_run.run),
    "Holds": (_cli_holds.intent, _cli_holds.register, _cli_holds.import_, _cli_holds.balance, _cli_holds.expiring),
    "The gateway's books": (_cli_holds.query, _cli_doubts.reconcile),
    "Doubts": (_cli_doubts.doubts, _cli_doubts.events, _cli_doubts.resolve),
    "Try and test": (_cli_demo.demo, _cli_demo.simulate, _cli_doctor.doctor, _cli_sign.sign, _cli_sign.verify),
}
for _order, (_name, _commands) in enumerate(_GROUPS.items()):
    _group = Group(_name, sort_key=_order)
    for _command in _commands:
        app.command(_command, name=_command.__name__.rstrip("_"), group=_group)

_cli_ledger.app.group = (Group("The ledger", sort_key=len(_GROUPS)),)
app.command(_cli_ledger.app)


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit code. Every expected error is one line that says what to do next."""
    try:
        code = app(list(arguments), exit_on_error=False, print_error=False, result_action="return_value")
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk is an error like others; at exit it would be a traceback
    except BrokenPipeError:
        raise
    except (CycloptsError, UsageError, FailedError, PreauthError, OSError) as error:
        return _report(error, arguments)
    return code if isinstance(code, int) else EXIT_OK


def _report(error: Exception, arguments: Sequence[str]) -> int:
    code = exit_code_of(error)
    if isinstance(error, OSError):
        hush_stdout()  # what it could not write, it cannot write at exit either
    # asked of the words themselves: a command line that could not be read has no options yet
    if any(each == "--json" or each.startswith("--json=") for each in arguments):
        emit_json_aside(error_object(error, code))
        return code
    if isinstance(error, CycloptsError):
        return fail(f"{str(error).strip()} See: qfpay-preauth {' '.join(error.command_chain or ())} --help", code)
    return fail(in_words(error), code)
