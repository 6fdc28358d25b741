"""Imported by the process that all others are forked from: what each of them would do first is done here, once."""

from __future__ import annotations

from hypothesis import strategies as st

from stress.fuzz.drawing import drawn
from stress.fuzz.targets import all_targets

READY = (all_targets(), drawn(st.text() | st.integers() | st.floats() | st.binary(), 0))
"""Hypothesis reads the constants of all modules that are there, and a table of all characters."""
