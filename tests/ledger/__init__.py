"""Tests of the ledger: its contract on every back-end, its rules, its file, its troubles."""
