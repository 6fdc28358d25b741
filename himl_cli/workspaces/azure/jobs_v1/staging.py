"""The files of a snapshot in a folder of their own: azureml-core takes a folder and applies its own idea of ignore
files to it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from himl_cli.core.errors import DiskFailed
from himl_cli.core.jobs import Snapshot

IGNORE_FILES = (".amlignore", ".gitignore")
"""At the root: azureml-core would apply them once more, without those of the folders below, which may take something
back in."""


@contextmanager
def staged(snapshot: Snapshot) -> Iterator[Path]:
    """A temporary folder with the snapshot's files (hard links where the disk allows it), gone afterwards. Raises
    DiskFailed."""
    with tempfile.TemporaryDirectory(prefix="himl-snapshot-", ignore_cleanup_errors=True) as folder:
        try:
            _lay(snapshot, Path(folder))
        except OSError as err:
            raise DiskFailed(f"The snapshot cannot be laid out: {err.strerror or err}: '{err.filename}'.") from err
        yield Path(folder)


def _lay(snapshot: Snapshot, folder: Path) -> None:
    made: set[Path] = set()
    for name in snapshot.files:
        if name in IGNORE_FILES:
            continue
        target = folder / name
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        _place((snapshot.root / name).resolve(), target)


def _place(source: Path, target: Path) -> None:
    """*source* is no link: a link to a link would point to nowhere from the other folder."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
