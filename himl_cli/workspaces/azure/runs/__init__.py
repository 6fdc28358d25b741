"""Runs: records, lists, metrics, outputs."""
