"""cuCIM, which reads slides without a GPU: its package without those for GPUs, installed once into `.cache/`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from filelock import FileLock

FOLDER = Path(__file__).parents[2] / ".cache" / "cucim"
PACKAGES = ("cucim-cu12", "lazy_loader")


def fetched() -> Path:
    """The folder with the packages. Skips the test, with pip's last line, if they cannot be installed."""
    from tests.conftest import lacking  # imports parts of pytest

    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(FOLDER.with_suffix(".lock")):
        if not (FOLDER / "lazy_loader").exists():
            options = (
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--only-binary=:all:",
                "--target",
                str(FOLDER),
            )
            done = subprocess.run(
                (sys.executable, "-m", "pip", "install", *options, *PACKAGES), capture_output=True, text=True
            )
            if done.returncode != 0:
                lacking(f"cuCIM, which pip cannot install: {done.stderr.strip().splitlines()[-1]}")
    return FOLDER
