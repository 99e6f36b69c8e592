"""Hypothesis for the pure rooms: no time limit per example (machines differ), and no files left behind."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("rooms", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("rooms")
