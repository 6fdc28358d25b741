"""Completion scripts: one table of the program, and an engine for each shell that reads it."""
