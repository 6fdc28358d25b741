"""Which tags come by themselves."""

from __future__ import annotations

AUTOMATIC_TAGS = ("build_", "command_line", "run_recovery_id", "mlflow.", "himl.")
"""Tags that come by themselves start so; people are shown the others."""
