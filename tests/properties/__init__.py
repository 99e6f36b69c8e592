"""Properties that hold for whatever Hypothesis thinks of: the ledgers beside a model of dictionaries, and the rules."""
