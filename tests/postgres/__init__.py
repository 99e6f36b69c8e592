"""Tests of the PostgreSQL ledger, on a real server that they bring along."""
