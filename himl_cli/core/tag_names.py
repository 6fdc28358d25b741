"""Which tags come by themselves."""

from __future__ import annotations

from himl_cli.core.runs import Run
from himl_cli.core.sweeps import HYPERPARAMETERS

AUTOMATIC_TAGS = ("build_", "command_line", "run_recovery_id", "mlflow.", "himl.")
"""Tags that come by themselves start so; people are shown the others."""
TRIES = "himl.tries"
"""The tag of a run here that was begun again: a JSON list with, for each further try, the number of the last row of
metrics that was there before it."""


def own_tags(run: Run) -> dict[str, str]:
    """The tags that somebody gave the run."""
    return {
        name: value
        for name, value in run.tags.items()
        if not name.startswith(AUTOMATIC_TAGS) and name != HYPERPARAMETERS
    }
