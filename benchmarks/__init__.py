"""Measurements to run by hand: `python -m benchmarks.NAME` from the project's folder."""
