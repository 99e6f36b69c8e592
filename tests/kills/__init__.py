"""Processes killed on one ledger file: a short run in the suite, `python -m tests.kills --kills 300` for a long one."""
