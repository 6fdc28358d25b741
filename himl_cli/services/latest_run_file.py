"""`most_recent_run.txt`: one line `experiment:run_id` about the run submitted last from a folder (hi-ml's file and format)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from himl_cli.core.runs import Run

FILE_NAME = "most_recent_run.txt"


def write_latest_run(folder: Path, run: Run) -> None:
    """Write the file in *folder*: whole or not at all, also when the machine goes down. Raises OSError."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{FILE_NAME}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(f"{run.recovery_id}\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, folder / FILE_NAME)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The process's mask for new files, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
