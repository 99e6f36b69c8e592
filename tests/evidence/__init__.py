"""Doubt ends by evidence only: attacks on enquiry, notifications, reconciliation."""
