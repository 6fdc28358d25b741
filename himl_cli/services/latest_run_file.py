"""`most_recent_run.txt`: one line `experiment:run_id` about the run submitted last from a folder (hi-ml's file and
format)."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.runs import Run
from himl_cli.core.whole_file import write_whole

FILE_NAME = "most_recent_run.txt"


def write_latest_run(folder: Path, run: Run) -> None:
    """Write the file in *folder*: whole or not at all, also when the machine goes down. Raises OSError."""
    write_whole(folder / FILE_NAME, f"{run.recovery_id}\n")
