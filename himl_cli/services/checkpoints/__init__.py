"""Checkpoints: select one to continue from, and fetch the first one of a new run."""
