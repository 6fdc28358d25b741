"""Runs: found, shown, followed, changed, written to and compared."""
