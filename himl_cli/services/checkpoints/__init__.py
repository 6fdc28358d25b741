"""Checkpoints: which one to go on from, and where a new run's first one comes from."""
