"""Looking at what a download left."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.files import is_bookkeeping
from tests.support.folders import files_below


def arrived(folder: Path) -> dict[str, str]:
    """The files below *folder* by their names, with their text; without what himl keeps for itself."""
    found = [path for path in files_below(folder) if not any(is_bookkeeping(part) for part in path.relative_to(folder).parts)]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(found)}
