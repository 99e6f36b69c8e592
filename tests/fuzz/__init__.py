"""A mutation fuzzer for what comes from outside: `python -m tests.fuzz --seconds 60 [--target judge] [--seed N]`."""
