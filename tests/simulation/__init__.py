"""A deterministic simulation of the whole client against the gateway's own books: `python -m tests.simulation`."""
