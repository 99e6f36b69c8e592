"""The console script `qfpay-preauth`, also `python -m qfpay_preauth`."""

from __future__ import annotations

import io
import os
import sys

_EXTRA = ("cyclopts", "rich")


def main() -> int:
    """Run the command line; the exit code. Without the `[cli]` extra: one line that says how to get it."""
    try:
        from qfpay_preauth._cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            f"The command line needs {error.name}, which is not installed: run "
            "python -m pip install 'qfpay_preauth[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:
        return 130  # so early that nothing has begun
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # no locale may stop a command that has moved money
    try:
        return run(sys.argv[1:])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader has left (`| head`): nothing more can be said, not even at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
