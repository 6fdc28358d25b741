"""Folders outside of a job's own, which a job asks for by `pathOnCompute`: in a container they would be the job's alone."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.servers.azureml.jobs.failures import JobFailed


class FixedFolders:
    """Those that one attempt took; `remove` leaves none of what was made."""

    def __init__(self, working_folder: Path) -> None:
        self._working_folder = working_folder
        self._made: list[Path] = []

    def take(self, asked: str) -> Path:
        """The folder *asked* for; relative ones count from the working folder. Raises JobFailed where something is there already."""
        folder = self._working_folder / asked
        if folder.is_dir() and any(folder.iterdir()):
            raise JobFailed(f"The path on compute '{asked}' is not empty.", "InvalidMountPoint", "data-capability")
        missing = [one for one in (folder, *folder.parents) if not one.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        self._made.append(missing[-1] if missing else folder)
        return folder

    def remove(self) -> None:
        for folder in self._made:
            shutil.rmtree(folder, ignore_errors=True)
