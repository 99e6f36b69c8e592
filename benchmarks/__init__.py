"""Benchmarks that anyone can run: `python -m benchmarks`. Every figure is a ratio of two things measured in one run."""
