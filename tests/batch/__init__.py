"""The batch runner: rows, the pool, `capture_many`, files, and the command `run`, also from outside."""
